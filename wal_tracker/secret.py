"""A string that does not know how to print itself."""

from __future__ import annotations


class Secret(str):
    """A credential. ``repr`` and ``format`` give ``***``; `reveal` gives the text, at the point of use only."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def reveal(self) -> str:
        """The credential itself."""
        return str.__str__(self)
