"""Asking before something is changed for good: on a terminal a question, elsewhere ``--yes`` is required."""

from __future__ import annotations

import sys

import click


def confirm(question: str, yes: bool) -> None:
    """
    Return if the person agrees.

    Args:
        question: What is about to happen; printed on stderr.
        yes: Answered already, by ``--yes``.

    Raises:
        click.UsageError: Nobody can be asked, and ``--yes`` was not given.
        click.Abort: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to ask on: give --yes to answer.")
    click.confirm(question, abort=True, err=True)
