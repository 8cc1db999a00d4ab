"""
Environment variables in scalars, after the file has been parsed: a value can never change the file's structure.

``$VAR`` as a whole scalar, and ``${VAR}`` or ``${VAR:-default}`` anywhere in one. A variable that is unset or empty,
and has no default, is an error; a default may hold further variables. ``$$`` is a dollar sign. What a variable holds
is not looked at again, and any other dollar sign stands for itself.

Where a secret may stand, a scalar that is written ``file:PATH`` is what that file holds; the path may have variables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_WHOLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNBRACED = re.compile(r"(?<!\$)(?:\$\$)*\$([A-Za-z_][A-Za-z0-9_]*)")

FILE_PREFIX = "file:"
MAX_FILE_BYTES = 64 * 1024
"""A secret is not larger; a path that leads to something endless is a mistake."""

# Defaults inside defaults; more is no configuration.
MAX_NESTING = 10


class Unexpandable(ValueError):
    """A scalar cannot be expanded; the message names the variable and the remedy, and repeats no value."""


def expand(text: str, env: Mapping[str, str]) -> str:
    """
    The scalar with its variables in place.

    Raises:
        Unexpandable: A variable is unset, empty or not text, or a ``${`` is not one of the two forms.
    """
    whole = _WHOLE.fullmatch(text)
    if whole is not None:
        return _value(whole[1], env)
    if "$" not in text:
        return text
    expanded, end = _expand(text, 0, env, 0)
    assert end == len(text)
    return expanded


def read_file(path: str) -> str:
    """
    What a file of a secret holds, without the newline at its end.

    Raises:
        Unexpandable: It cannot be read, is empty, too large or not text; names the path and repeats nothing of it.
    """
    try:
        with open(path, "rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a path"
        raise Unexpandable(f"the file {path!r} cannot be read: {why}") from None
    if len(content) > MAX_FILE_BYTES:
        raise Unexpandable(f"the file {path!r} is larger than {MAX_FILE_BYTES} bytes, which no secret is")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise Unexpandable(f"the file {path!r} is not UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise Unexpandable(f"the file {path!r} is empty")
    return text


def unbraced(text: str) -> str | None:
    """The name after a dollar sign that stands for itself, where ``${NAME}`` may have been meant."""
    if _WHOLE.fullmatch(text):
        return None
    match = _UNBRACED.search(text)
    return match[1] if match else None


def _expand(text: str, at: int, env: Mapping[str, str] | None, nesting: int) -> tuple[str, int]:
    """Expand from `at` to the end of the text, or inside a default to its closing brace; without `env`, only read."""
    out: list[str] = []
    while at < len(text):
        if nesting and text[at] == "}":
            break
        if text.startswith("$$", at):
            out.append("$")
            at += 2
        elif text.startswith("${", at):
            value, at = _variable(text, at, env, nesting)
            out.append(value)
        else:
            out.append(text[at])
            at += 1
    return "".join(out), at


def _variable(text: str, at: int, env: Mapping[str, str] | None, nesting: int) -> tuple[str, int]:
    """The value of the ``${…}`` that begins at `at`, and where it ends."""
    name = _NAME.match(text, at + 2)
    after = name.end() if name else 0
    if name is not None and text.startswith("}", after):
        return _value(name[0], env), after + 1
    if name is not None and text.startswith(":-", after):
        if nesting >= MAX_NESTING:
            raise Unexpandable(f"defaults are nested deeper than {MAX_NESTING} levels")
        is_set = env is not None and bool(env.get(name[0]))
        # A default that is not used may name variables that are not set.
        default, end = _expand(text, after + 2, None if is_set else env, nesting + 1)
        if end < len(text):
            return (_value(name[0], env) if is_set else default), end + 1
    raise Unexpandable("a ${ is not closed or not understood; write ${VAR}, ${VAR:-default}, or $$ for a dollar sign")


def _value(name: str, env: Mapping[str, str] | None) -> str:
    if env is None:
        return ""
    value = env.get(name, "")
    if not value:
        state = "is empty" if name in env else "is not set"
        raise Unexpandable(f"the environment variable {name} {state}; set it, or give a default: ${{{name}:-…}}")
    if any("\ud800" <= character <= "\udfff" for character in value):  # os.environ's form of undecodable bytes
        raise Unexpandable(f"the environment variable {name} is not UTF-8")
    return value
