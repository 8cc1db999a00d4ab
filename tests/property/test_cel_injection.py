"""Whatever an expression holds, the generated Python holds it as a constant or not at all."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wal_tracker import cel
from wal_tracker.cel import syntax

_NAMES = re.compile(r"[vsk][0-9]+|f|slow|Exception|all|any|float|len|sum")
_ATTRIBUTES = {"get", "startswith", "endswith", "encode", "undefined"}
_NASTY = [
    "');__import__('os').system('true')#",
    '"""\n return 1\n',
    "\\",
    "\\'",
    "'\"\n\r\0{}{0}%s\u2028\ud7ff",
    "{v0}",
    "\n  except Exception:\n   pass\n",
    "v0",
    "slow",
    "\N{RIGHT-TO-LEFT OVERRIDE}",
]


@contextmanager
def _generated() -> Iterator[list[str]]:
    """The sources compiled meanwhile."""
    sources: list[str] = []
    compiling = builtins.compile

    def spy(source: Any, filename: Any, *rest: Any, **options: Any) -> Any:
        if filename == "<cel>":
            sources.append(source)
        return compiling(source, filename, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "compile", spy)
        yield sources


def _check(source: str, texts: set[str]) -> None:
    """The source names only what is ours, and `texts` stand in it as whole constants."""
    constants = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            assert _NAMES.fullmatch(node.id), node.id
        elif isinstance(node, ast.arg):
            assert _NAMES.fullmatch(node.arg), node.arg
        elif isinstance(node, ast.Attribute):
            assert node.attr in _ATTRIBUTES, node.attr
        elif isinstance(node, ast.Constant):
            constants.add(node.value)
        else:
            assert not isinstance(node, (ast.Import, ast.ImportFrom, ast.Global, ast.ClassDef, ast.JoinedStr))
    assert texts <= {constant for constant in constants if isinstance(constant, str)}


def _literal(text: str) -> str:
    return "'" + "".join(f"\\U{ord(character):08x}" for character in text) + "'"


# A column's name holds no NUL: row keys that begin with one are another form of the column.
_texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=2, max_size=40
) | st.sampled_from(_NASTY)


@settings(max_examples=60, deadline=None)
@given(_texts)
@example("new")
def test_text_reaches_the_generated_source_as_a_constant_only(text: str) -> None:
    """As a string, a key, a pattern's subject, a column, a variable and the name of an output."""
    quoted, variable = _literal(text), "a" + re.sub(r"[^a-z]", "", text)
    if variable in syntax.RESERVED | syntax.KEYWORDS:
        variable += "0"
    env = cel.Environment({variable: cel.row({text: "string"}), "e": cel.events([text])})
    row = {text: text}
    with _generated() as sources:
        same = cel.compile(f"[{quoted}, {{{quoted}: {variable}[{quoted}]}}]", env)
        tested = cel.compile(f"{variable}[{quoted}].startsWith({quoted}) && {quoted} in [{quoted}, 'x']", env)
        event = cel.compile(f"e[{quoted}]", env, result="event")
        fused = cel.fuse({text: event, "tested": tested}, (variable,))
    assert same.evaluate({variable: row}) == [text, {text: text}]
    assert tested.evaluate({variable: row}) is True
    assert event.evaluate({}) == text
    assert fused(row) == {text: text, "tested": True}
    assert len(sources) == 4
    for source in sources:
        _check(source, {text})


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
@example("a\n)} + __import__('os')")
@example("__import__('os')")
@example("new.__class__")
@example("new.email.__class__.__mro__")
@example("[x for x in ().__class__.__bases__]")
@example("lambda: 0")
@example("new.map(x, exec('1'))")
@example("'{}'.format([new.__dict__])")
def test_no_text_at_all_makes_python_run(text: str) -> None:
    """It is refused as CEL; or it is CEL, and what is generated names nothing but what is ours."""
    with _generated() as sources:
        try:
            cel.compile(text, cel.Environment({"new": cel.row(None)}))
        except cel.CelCompileError as error:
            assert error.line >= 1
            assert error.rendered
    for source in sources:
        _check(source, set())
