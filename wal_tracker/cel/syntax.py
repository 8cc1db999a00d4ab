"""
Text to syntax tree.

cel-python's grammar parses. Around it stand two things of ours: a scan of the tokens before, which settles what that
grammar reads differently from the specification (escapes, line ends in triple quotes, back-quoted names, trailing
commas, reserved words), and the turn of its concrete tree into the small tree below.

The scan masks: every string literal becomes a harmless one of the same length, so that positions hold, and its value
is looked up by position afterwards.

See: https://github.com/google/cel-spec/blob/master/doc/langdef.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Union

import lark

# celpy raises the process's recursion limit to 2500; ours is none of its business.
_limit = sys.getrecursionlimit()
from celpy.celparser import CELParseError, CELParser  # noqa: E402

sys.setrecursionlimit(_limit)

from wal_tracker.cel.errors import CelSyntaxError  # noqa: E402
from wal_tracker.cel.values import INT_MAX, UINT_MAX, UInt  # noqa: E402

MAX_LENGTH = 16_384
"""Characters of one expression."""
MAX_DEPTH = 100
"""Levels of the syntax tree; a chain of binary operators counts a level for each."""

_RESERVED = "as break const continue else for function if import let loop package namespace return var void while"
RESERVED = frozenset(_RESERVED.split(" "))
KEYWORDS = frozenset(("in", "true", "false", "null"))

Scalar = Union[None, bool, int, float, str, bytes]


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant."""

    offset: int
    value: Scalar


@dataclass(frozen=True, slots=True)
class Name:
    """An identifier; `absolute` where it is written with a leading dot."""

    offset: int
    name: str
    absolute: bool = False


@dataclass(frozen=True, slots=True)
class Select:
    """``operand.field``"""

    offset: int
    operand: Node
    field: str


@dataclass(frozen=True, slots=True)
class Index:
    """``operand[key]``"""

    offset: int
    operand: Node
    key: Node


@dataclass(frozen=True, slots=True)
class Call:
    """``function(arguments)`` or ``target.function(arguments)``"""

    offset: int
    function: str
    target: Node | None
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class ListLiteral:
    """``[a, b]``"""

    offset: int
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MapLiteral:
    """``{key: value}``"""

    offset: int
    entries: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class Unary:
    """``!operand`` or ``-operand``"""

    offset: int
    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary:
    """A relation or arithmetic."""

    offset: int
    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Logical:
    """``a && b && …`` or ``a || b || …``"""

    offset: int
    operator: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Conditional:
    """``condition ? yes : no``"""

    offset: int
    condition: Node
    yes: Node
    no: Node


Node = Union[Literal, Name, Select, Index, Call, ListLiteral, MapLiteral, Unary, Binary, Logical, Conditional]


def parse(source: str) -> Node:
    """
    The syntax tree of an expression.

    Raises:
        CelSyntaxError: It is not CEL, or is longer or deeper than the bounds.
    """
    if len(source) > MAX_LENGTH:
        raise CelSyntaxError(f"the expression is longer than {MAX_LENGTH} characters", source, MAX_LENGTH)
    scan = _Scan(source)
    try:
        tree = CELParser().parse(scan.masked)
    except CELParseError as error:
        raise _unexpected(source, scan.masked, error) from None
    return _Adapter(source, scan).node(tree, 0)


# The scan ----------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<space>[\t\n\f\r ]+|//[^\n]*)
    |(?P<string>(?P<prefix>[rR][bB]?|[bB][rR]?|)(?P<quote>\"""|'''|"|'))
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:[0-9]+\.[0-9]+|[0-9]+|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[uU]?)
    |(?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
    |`(?P<quoted>[^`\n]+)`
    |(?P<operator>\|\||&&|==|!=|<=|>=|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE,
)
_IN_WORDS = {"and": "&&", "or": "||", "not": "!"}
_INSTEAD = {"=": "use == to compare", "&": "use && for and", "|": "use || for or", "“": "use plain quotes: ' or \""}


class _Scan:
    """The tokens of an expression, as the specification reads them."""

    def __init__(self, source: str) -> None:
        self.literals: dict[int, Scalar] = {}
        """Offset of a string or bool literal to its value."""
        self.names: dict[int, str] = {}
        """Offset of a back-quoted name to the name."""
        self._source = source
        self._mask = list(source)
        self._run()
        self.masked = "".join(self._mask)

    def _run(self) -> None:
        source, offset, depth = self._source, 0, 0
        before, comma = "", -1
        while offset < len(source):
            match = _TOKEN.match(source, offset)
            if match is None:
                character = source[offset]
                raise CelSyntaxError(
                    f"unexpected {character!r}", source, offset, hint=_INSTEAD.get(character) or self._name_hint(offset)
                )
            text, end = match.group(), match.end()
            if match["quote"] is not None:
                end = self._string(match)
                text = "''"
            elif match["quoted"] is not None:
                if before != ".":
                    raise CelSyntaxError("a back-quoted name can only stand after a dot", source, offset)
                self.names[offset] = match["quoted"]
                self._replace(offset, end, "q" + "_" * (end - offset - 1))
            elif match["space"] is not None:
                # A comment is blanked, so that nothing in it can matter.
                self._replace(offset, end, "".join("\n" if character == "\n" else " " for character in text))
                offset = end
                continue
            elif before == "." and text in KEYWORDS:
                raise CelSyntaxError(
                    f"{text!r} is a keyword and cannot follow a dot",
                    source,
                    offset,
                    hint=f"write .`{text}` or ['{text}']",
                )
            elif text in ("true", "false"):
                # The grammar's own tokens for these have lost their positions.
                self.literals[offset] = text == "true"
                self._mask_literal(offset, end)
            elif text in ("(", "[", "{"):
                depth += 1
                if depth > MAX_DEPTH:
                    raise CelSyntaxError(f"brackets are nested deeper than {MAX_DEPTH}", source, offset)
            elif text in (")", "]", "}"):
                depth -= 1
                if before == "," and text != ")":
                    self._mask[comma] = " "
            elif text == ",":
                comma = offset
            before, offset = text, end

    def _name_hint(self, offset: int) -> str:
        """For a column called größe, which no CEL identifier can spell."""
        if not (self._source[offset].isalpha()):
            return ""
        start, end = offset, offset
        while start > 0 and (self._source[start - 1].isalnum() or self._source[start - 1] == "_"):
            start -= 1
        while end < len(self._source) and (self._source[end].isalnum() or self._source[end] == "_"):
            end += 1
        return f"a name with letters outside a-z is written ['{self._source[start:end]}']"

    def _replace(self, start: int, end: int, text: str) -> None:
        self._mask[start:end] = text

    def _mask_literal(self, start: int, end: int) -> None:
        self._replace(start, end, '"' + "_" * (end - start - 2) + '"')

    def _string(self, match: re.Match[str]) -> int:
        """Read one string literal; returns where it ends."""
        source, start, quote = self._source, match.start(), match["quote"]
        prefix = match["prefix"].lower()
        raw, is_bytes = "r" in prefix, "b" in prefix
        begin = at = match.end()
        while not source.startswith(quote, at):
            if at >= len(source) or (len(quote) == 1 and source[at] in "\r\n"):
                raise CelSyntaxError("the string does not end", source, start)
            at += 2 if source[at] == "\\" and not raw else 1
        body = source[begin:at]
        if raw:
            self.literals[start] = body.encode() if is_bytes else body
        else:
            self.literals[start] = self._bytes(body, begin) if is_bytes else self._text(body, begin)
        end = at + len(quote)
        self._mask_literal(start, end)
        return end

    def _text(self, body: str, begin: int) -> str:
        def character(match: re.Match[str]) -> str:
            if match["simple"] is not None:
                return _SIMPLE[match["simple"]]
            digits = match["octal"] or match["hex"] or match["unicode"]
            code = -1 if digits is None else int(digits[-8:].lstrip("xXuU"), 8 if match["octal"] else 16)
            if code < 0 or 0xD800 <= code < 0xE000 or code > 0x10FFFF:
                raise self._bad_escape(begin + match.start(), match.group())
            return chr(code)

        return _ESCAPE.sub(character, body)

    def _bytes(self, body: str, begin: int) -> bytes:
        value, last = bytearray(), 0
        for match in _ESCAPE.finditer(body):
            value += body[last : match.start()].encode()
            last = match.end()
            if match["simple"] is not None:
                value += _SIMPLE[match["simple"]].encode()
            elif match["octal"] or match["hex"]:
                value.append(int(match["octal"], 8) if match["octal"] else int(match["hex"], 16))
            else:
                raise self._bad_escape(begin + match.start(), match.group())
        return bytes(value + body[last:].encode())

    def _bad_escape(self, offset: int, text: str) -> CelSyntaxError:
        return CelSyntaxError(
            f"{text!r} is not an escape sequence", self._source, offset, hint="a backslash is written \\\\, or use r'…'"
        )


_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_SIMPLE.update((character, character) for character in "\"'\\?`")
_ESCAPE = re.compile(
    r"""\\(?:(?P<simple>[abfnrtv"'\\?`])|(?P<octal>[0-3][0-7]{2})|[xX](?P<hex>[0-9a-fA-F]{2})
    |(?P<unicode>u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})|.|$)""",
    re.VERBOSE | re.DOTALL,
)


def _unexpected(source: str, masked: str, error: CELParseError) -> CelSyntaxError:
    """Our words for what the grammar refused."""
    cause = error.__context__
    offset = -1
    if isinstance(cause, lark.UnexpectedInput) and not (
        isinstance(cause, lark.UnexpectedToken) and cause.token.type == "$END"
    ):
        offset = cause.pos_in_stream if cause.pos_in_stream is not None else -1
    match = _TOKEN.match(masked, offset) if offset >= 0 else None
    if match is None:
        return CelSyntaxError("the expression ends too early", source, len(masked.rstrip()))
    text = match.group()
    if text in _IN_WORDS:
        hint = f"CEL writes {_IN_WORDS[text]} for {text}"
    elif re.search(r"[_a-zA-Z0-9]\s+$", masked[:offset]) and match["name"] is not None:
        hint = "if this is text, quote it: '…'"
    else:
        hint = ""
    shown = "a string" if text.startswith('"') else repr(text)
    return CelSyntaxError(f"unexpected {shown}", source, offset, hint=hint)


# The adapter -------------------------------------------------------------------------------------

_OPERATORS = {
    "relation_lt": "<",
    "relation_le": "<=",
    "relation_gt": ">",
    "relation_ge": ">=",
    "relation_eq": "==",
    "relation_ne": "!=",
    "relation_in": "in",
    "addition_add": "+",
    "addition_sub": "-",
    "multiplication_mul": "*",
    "multiplication_div": "/",
    "multiplication_mod": "%",
}
_FLOAT = re.compile(r"-?(?:[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+(?:[eE][+-]?[0-9]+)?)")

_Tree = lark.Tree[lark.Token]


class _Adapter:
    """Turns the grammar's concrete tree into ours. `depth` bounds our own recursion, here and in all later walks."""

    def __init__(self, source: str, scan: _Scan) -> None:
        self._source = source
        self._masked = scan.masked
        self._literals = scan.literals
        self._names = scan.names

    def node(self, tree: _Tree, depth: int) -> Node:
        while len(tree.children) == 1 and tree.data in _WRAPPERS:
            tree = _subtree(tree, 0)
        if depth > MAX_DEPTH:
            raise CelSyntaxError(
                f"the expression is nested deeper than {MAX_DEPTH} levels", self._source, tree.meta.start_pos
            )
        rule = str(tree.data)
        if rule == "expr":
            condition, yes, no = (self.node(_subtree(tree, i), depth + 1) for i in range(3))
            offset = self._source_before(_subtree(tree, 1).meta.start_pos, "?")
            return Conditional(offset, condition, yes, no)
        if rule in ("conditionalor", "conditionaland"):
            return self._logical(tree, depth)
        if rule in ("relation", "addition", "multiplication"):
            return self._binary(tree, depth)
        if rule == "unary":
            return self._unary(tree, depth)
        if rule == "literal":
            return self._literal(tree)
        if rule in ("ident", "dot_ident"):
            return self._ident(tree)
        if rule == "member_object":
            raise CelSyntaxError(
                "messages are not supported", self._source, tree.meta.start_pos, hint="a map is written {'key': value}"
            )
        handler = {
            "member_dot": self._member_dot,
            "member_dot_arg": self._member_call,
            "member_index": self._member_index,
            "ident_arg": self._call,
            "dot_ident_arg": self._call,
            "list_lit": self._list,
            "map_lit": self._map,
        }[rule]
        return handler(tree, depth)

    def _source_before(self, offset: int, token: str) -> int:
        return max(self._masked.rfind(token, 0, offset), 0)

    def _logical(self, tree: _Tree, depth: int) -> Node:
        rule, operator = str(tree.data), "||" if tree.data == "conditionalor" else "&&"
        parts: list[_Tree] = []
        # The grammar nests to the left; the chain is one node of ours.
        while len(tree.children) == 2:
            left, right = _subtree(tree, 0), _subtree(tree, 1)
            parts.append(right)
            tree = left
            if tree.data != rule:
                break
        parts.append(tree)
        parts.reverse()
        offset = self._source_before(parts[1].meta.start_pos, operator)
        return Logical(offset, operator, tuple(self.node(part, depth + 1) for part in parts))

    def _binary(self, tree: _Tree, depth: int) -> Node:
        chain: list[tuple[str, int, _Tree]] = []
        while len(tree.children) == 2:
            head, right = _subtree(tree, 0), _subtree(tree, 1)
            operator = _OPERATORS[str(head.data)]
            chain.append((operator, head.meta.end_pos - len(operator), right))
            tree = _subtree(head, 0)
        node = self.node(tree, depth + len(chain))
        for i, (operator, offset, right) in enumerate(reversed(chain)):
            node = Binary(offset, operator, node, self.node(right, depth + len(chain) - i))
        return node

    def _unary(self, tree: _Tree, depth: int) -> Node:
        operator = "!" if _subtree(tree, 0).data == "unary_not" else "-"
        offset = tree.meta.start_pos
        operand = _subtree(tree, 1)
        if operator == "-":
            literal = operand
            while len(literal.children) == 1 and literal.data in _WRAPPERS:
                literal = _subtree(literal, 0)
            token = literal.children[0] if literal.data == "literal" else None
            if isinstance(token, lark.Token) and token.type in ("INT_LIT", "FLOAT_LIT") and token[0] != "-":
                return self._number(offset, token.type, "-" + token)
        return Unary(offset, operator, self.node(operand, depth + 1))

    def _member_dot(self, tree: _Tree, depth: int) -> Node:
        token = _token(tree, 1)
        offset = _start(token)
        return Select(offset, self.node(_subtree(tree, 0), depth + 1), self._names.get(offset, str(token)))

    def _member_call(self, tree: _Tree, depth: int) -> Node:
        token = _token(tree, 1)
        if _start(token) in self._names:
            raise CelSyntaxError("a function's name cannot be back-quoted", self._source, _start(token))
        target = self.node(_subtree(tree, 0), depth + 1)
        return Call(_start(token), str(token), target, self._list_of(tree, 2, depth))

    def _member_index(self, tree: _Tree, depth: int) -> Node:
        operand, key = _subtree(tree, 0), _subtree(tree, 1)
        offset = self._source_before(key.meta.start_pos, "[")
        return Index(offset, self.node(operand, depth + 1), self.node(key, depth + 1))

    def _ident(self, tree: _Tree) -> Node:
        token = _token(tree, 0)
        name, offset = str(token), _start(token)
        if name in RESERVED:
            raise CelSyntaxError(
                f"{name!r} is a reserved word", self._source, offset, hint=f"if this is text, quote it: '{name}'"
            )
        return Name(offset, name, absolute=tree.data == "dot_ident")

    def _call(self, tree: _Tree, depth: int) -> Node:
        token = _token(tree, 0)
        if str(token) in RESERVED:
            raise CelSyntaxError(f"{str(token)!r} is a reserved word", self._source, _start(token))
        return Call(_start(token), str(token), None, self._list_of(tree, 1, depth))

    def _list(self, tree: _Tree, depth: int) -> Node:
        return ListLiteral(tree.meta.start_pos, self._list_of(tree, 0, depth))

    def _list_of(self, tree: _Tree, i: int, depth: int) -> tuple[Node, ...]:
        """The elements of the `exprlist` at place `i`, if there is one."""
        if len(tree.children) <= i:
            return ()
        return tuple(self.node(item, depth + 1) for item in _subtrees(_subtree(tree, i)))

    def _map(self, tree: _Tree, depth: int) -> Node:
        if not tree.children:
            return MapLiteral(tree.meta.start_pos, ())
        items = [self.node(item, depth + 1) for item in _subtrees(_subtree(tree, 0))]
        return MapLiteral(tree.meta.start_pos, tuple(zip(items[::2], items[1::2], strict=True)))

    def _literal(self, tree: _Tree) -> Node:
        token = _token(tree, 0)
        offset, text = _start(token), str(token)
        if offset in self._literals:
            return Literal(offset, self._literals[offset])
        if token.type == "NULL_LIT":
            return Literal(offset, None)
        if token.type == "UINT_LIT" and text[0] == "-":
            return Unary(offset, "-", self._number(offset + 1, token.type, text[1:]))
        return self._number(offset, token.type, text)

    def _number(self, offset: int, kind: str, text: str) -> Literal:
        if kind == "FLOAT_LIT":
            if not _FLOAT.fullmatch(text):
                raise CelSyntaxError(f"{text!r} is not a number", self._source, offset, hint=f"write {text}0")
            return Literal(offset, float(text))
        digits = text.rstrip("uU")
        base = 16 if digits.lstrip("-")[:2].lower() == "0x" else 10
        # More than 20 digits cannot be in range, and int() of very many is slow or refused.
        value = int(digits, base) if len(digits) < 64 else UINT_MAX + 1
        if kind == "UINT_LIT":
            if value > UINT_MAX:
                raise CelSyntaxError("the number does not fit 64 bits", self._source, offset)
            return Literal(offset, UInt(value))
        if not -INT_MAX - 1 <= value <= INT_MAX:
            raise CelSyntaxError("the number does not fit 64 bits", self._source, offset)
        return Literal(offset, value)


_LADDER = "expr conditionalor conditionaland relation addition multiplication unary member primary paren_expr"
_WRAPPERS = frozenset(_LADDER.split(" "))
"""Rules that, with one child, are only a step on the grammar's ladder of precedence."""


def _subtree(tree: _Tree, i: int) -> _Tree:
    child = tree.children[i]
    assert isinstance(child, lark.Tree)
    return child


def _subtrees(tree: _Tree) -> Iterator[_Tree]:
    return (_subtree(tree, i) for i in range(len(tree.children)))


def _token(tree: _Tree, i: int) -> lark.Token:
    child = tree.children[i]
    assert isinstance(child, lark.Token)
    return child


def _start(token: lark.Token) -> int:
    assert token.start_pos is not None
    return token.start_pos
