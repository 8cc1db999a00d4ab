"""Small readers over parsed YAML: each says what it accepts, and where it stands when it does not."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from wal_tracker.config import yaml
from wal_tracker.config.environment import FILE_PREFIX, Unexpandable, expand, read_file, unbraced
from wal_tracker.errors import ConfigError
from wal_tracker.secret import Secret

Choice = TypeVar("Choice", bound=str)

_NUMBER = re.compile(r"[-+]?[0-9]{1,18}(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,2})?")


def shortlist(names: Sequence[str]) -> str:
    """Names for a sentence: ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def suggestion(wrong: str, known: Sequence[str]) -> str:
    """``; did you mean …?``, or else what there is."""
    by_lower = {name.lower().replace("-", "_"): name for name in known}
    near = difflib.get_close_matches(wrong.lower().replace("-", "_"), by_lower, n=1)
    if near:
        return f"; did you mean {by_lower[near[0]]!r}?"
    return f"; there are {shortlist(known)}" if known else "; there are none"


def one_of(reader: Reader, accepted: Sequence[Choice]) -> Choice:
    """One of a few words."""
    text = reader.text()
    for word in accepted:
        if text == word:
            return word
    raise reader.error(f"is {text!r}{suggestion(text, accepted)}")


class Reader:
    """One value of the file, its place, and the environment its scalars are expanded in."""

    def __init__(
        self,
        node: yaml.Node,
        path: str,
        file: str,
        env: Mapping[str, str] | None,
        warnings: list[str],
        key: yaml.Scalar | None = None,
    ) -> None:
        """
        Args:
            node: The value.
            path: Dotted, from the file's top.
            file: As the person named it.
            env: Expands scalars; None leaves dollar signs alone.
            warnings: Where to put what is odd and no error.
            key: The key it stands under.
        """
        self.node = node
        self.path = path
        self.file = file
        self.key = key
        self._env = env
        self._warnings = warnings

    def without_environment(self) -> Reader:
        """The same, its scalars as they are written."""
        return Reader(self.node, self.path, self.file, None, self._warnings, self.key)

    def error(self, message: str) -> ConfigError:
        """The error that this value is; for the caller to raise."""
        place = self.key or self.node
        return ConfigError(message, path=self.path, file=self.file, line=place.line, column=place.column)

    def warn(self, message: str) -> None:
        """Note that this value is odd; who shows it names the file."""
        place = self.error(message)
        self._warnings.append(str(ConfigError(message, path=place.path, line=place.line, column=place.column)))

    @property
    def is_null(self) -> bool:
        """Nothing is written there."""
        return isinstance(self.node, yaml.Scalar) and self.node.value is None

    # Collections ---------------------------------------------------------------------------------

    def entries(self) -> Iterator[tuple[str, Reader]]:
        """Keys and values of a mapping; nothing of an absent one."""
        if self.is_null:
            return
        if not isinstance(self.node, yaml.Mapping):
            raise self.error("must be a mapping (key: value)")
        for text, (key, node) in self.node.entries.items():
            path = f"{self.path}.{text}" if self.path else text
            yield text, Reader(node, path, self.file, self._env, self._warnings, key)

    def child(self, name: str) -> Reader | None:
        """The value under a key; None where there is none, or nothing under it."""
        for key, entry in self.entries():
            if key == name and not entry.is_null:
                return entry
        return None

    def only(self, known: Sequence[str]) -> None:
        """Refuse keys nobody reads."""
        for key, entry in self.entries():
            if key not in known:
                raise entry.error(f"is not a setting{suggestion(key, known)}")

    def items(self) -> list[Reader]:
        """Values of a list."""
        if not isinstance(self.node, yaml.Sequence):
            raise self.error("must be a list")
        return [
            Reader(node, f"{self.path}[{position}]", self.file, self._env, self._warnings)
            for position, node in enumerate(self.node.items)
        ]

    # Scalars -------------------------------------------------------------------------------------

    def text(self) -> str:
        """A value that is not empty, as text."""
        if not isinstance(self.node, yaml.Scalar):
            raise self.error("must be a single value, not a list or a mapping")
        text = self._expanded(self.node)
        if not text or self.is_null:
            raise self.error("must not be empty")
        return text

    def secret(self) -> Secret:
        """A text that may stand in a file of its own (``file:PATH``)."""
        if isinstance(self.node, yaml.Scalar) and self.node.text.startswith(FILE_PREFIX):
            return Secret(self._expanded(self.node, files=True))
        return Secret(self.text())

    def texts(self) -> list[str]:
        """A list of texts, or a single one."""
        if isinstance(self.node, yaml.Scalar):
            return [self.text()]
        return [item.text() for item in self.items()]

    def matching(self, pattern: str, accepted: str) -> str:
        """A text of a certain form."""
        text = self.text()
        if not re.fullmatch(pattern, text):
            raise self.error(f"is {text!r}; {accepted}")
        return text

    def number(self, low: float, high: float, *, whole: bool) -> float:
        """A number within bounds, both included; text from a variable is read as one."""
        text = self.text()
        number = float(text) if _NUMBER.fullmatch(text) else math.nan
        if whole and number == number and number != int(number):
            raise self.error("must be a whole number")
        if not low <= number <= high:
            raise self.error(f"must be a number from {_plain(low)} to {_plain(high)}")
        return int(number) if whole else number

    def plain(self) -> Any:
        """The value as dicts, lists and scalars, variables expanded; what came from a variable or a file is text."""
        if isinstance(self.node, yaml.Mapping):
            return {key: entry.plain() for key, entry in self.entries()}
        if isinstance(self.node, yaml.Sequence):
            return [item.plain() for item in self.items()]
        text = self._expanded(self.node, files=True)
        return self.node.value if text == self.node.text else text

    def _expanded(self, node: yaml.Scalar, *, files: bool = False) -> str:
        if self._env is None:
            return node.text
        try:
            text = expand(node.text, self._env)
            # By what is written: a variable's value names no file.
            if files and node.text.startswith(FILE_PREFIX):
                return read_file(text.removeprefix(FILE_PREFIX))
        except Unexpandable as error:
            raise self.error(str(error)) from error
        literal = unbraced(node.text)
        if literal is not None:
            self.warn(f"${literal} inside a text is not expanded; write ${{{literal}}}, or $$ for a dollar sign")
        return text


def _plain(number: float) -> str:
    return f"{number:,}" if number == int(number) else f"{number:g}"
