"""
The pages of docs/destinations, made of the destinations' own docstrings, options and limits: ``make docs``.

Nothing is told here that a class does not say of itself, but for the example of each. A test holds the committed
pages to what this makes, and every example to being one.
"""

from __future__ import annotations

import ast
import collections.abc
import dataclasses
import inspect
import re
import sys
import textwrap
import types
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from wal_tracker.destinations import registry
from wal_tracker.secret import Secret

FOLDER = Path(__file__).parent / "destinations"

EXAMPLES = {
    "amplitude": "apiKey: $AMPLITUDE_API_KEY\nendpoint: eu",
    "audit_stream": "endpoint: http://audit:8093\nallow_private: true\nallow_http: true",
    "bigquery": "tableId: analytics-project.analytics.events\ncredentialsJson: file:/run/secrets/bigquery.json",
    "clickhouse": "url: https://clickhouse.example.com:8443\npassword: $CLICKHOUSE_PASSWORD",
    "file": "path: /var/log/wal_tracker/events.jsonl",
    "mixpanel": "projectToken: $MIXPANEL_PROJECT_TOKEN\napiEndpoint: eu",
    "nats": "servers: [tls://nats.example.com:4222]\nstream: EVENTS\nsubject: events.{event}",
    "otlp": "endpoint: https://collector.example.com:4318",
    "posthog": "apiKey: $POSTHOG_API_KEY\nendpoint: eu",
    "postgres": "dsn: $WAREHOUSE_URL\ncreate: true",
    "redis": "url: $REDIS_URL\nstream: events",
    "rudderstack": "writeKey: $RUDDERSTACK_WRITE_KEY\ndataPlaneUrl: https://example.dataplane.rudderstack.com",
    "s3": "bucket: example-events\nregion: eu-west-1\nrootDir: shop",
    "segment": "writeKey: $SEGMENT_WRITE_KEY\nendpoint: us",
    "slack": "webhookUrl: $SLACK_WEBHOOK_URL\nshow: [plan, total]",
    "sns": "topicArn: arn:aws:sns:eu-west-1:123456789012:events.fifo",
    "sqs": "queueUrl: https://sqs.eu-west-1.amazonaws.com/123456789012/events.fifo",
    "stdout": "",
    "webhook": "url: https://example.com/events\nsecret: $WEBHOOK_SECRET",
}
"""Of each kind: its options as YAML, as few as work."""

HEADER = "<!-- Made by `make docs` of the destination's own docstrings; do not edit. -->\n"


def pages() -> dict[str, str]:
    """Every page by its name in `FOLDER`."""
    kinds = first_party()
    return {"README.md": index(kinds), **{f"{kind}.md": page(kind) for kind in kinds}}


def first_party() -> list[str]:
    """The kinds that come with wal_tracker."""
    return sorted(kind.name for kind in registry.available() if kind.distribution == "wal_tracker")


def index(kinds: list[str]) -> str:
    """The list of all kinds."""
    lines = [
        HEADER,
        "# Destinations",
        "",
        "Each is an entry under `destinations`; those that take raw changes may also stand under",
        "`raw_db_event_destinations`. What every entry may have (`kind`, `filter`, `when`, `properties`, `delivery`",
        "…) is in [configuration.md](../configuration.md#an-entry-under-destinations); how to write another one, in",
        "[plugins/README.md](../../plugins/README.md).",
        "",
        "| kind | what it is | raw changes | needs |",
        "|---|---|---|---|",
    ]
    for kind in kinds:
        loaded: Any = registry.load(kind)
        summary = _markdown(_docstring(sys.modules[loaded.__module__]).split("\n\n")[0].split(" See: ")[0])
        raw = "yes" if loaded.accepts_raw else "no"
        lines.append(f"| [`{kind}`]({kind}.md) | {_flat(summary)} | {raw} | {_install(kind)} |")
    return "\n".join(lines) + "\n"


def page(kind: str) -> str:
    """All of one kind."""
    loaded: Any = registry.load(kind)
    module = _docstring(sys.modules[loaded.__module__])
    prose = re.sub(r"\s*\bSee: (?:.|\n)*", "", module)
    raw = "Raw changes may go there, too." if loaded.accepts_raw else "It takes events, and no raw changes."
    parts = [
        f"{HEADER}\n# `{kind}`",
        _markdown(prose),
        _markdown(_docstring(loaded)),
        textwrap.fill(f"{_limits(loaded)} {raw}", 118, break_on_hyphens=False),
        *_needs(kind),
        f"```yaml\ndestinations:\n  {kind}:{_example(kind)}\n```",
    ]
    for owner, fields in _by_class(loaded.Config):
        told = _docstring(owner).removesuffix(".").split(";")[0] if owner is not loaded.Config else ""
        parts.append(f"## {'Options' if owner is loaded.Config else 'Further options'}")
        if told or not fields:
            parts.append(_markdown(told + ":" if told else _docstring(owner)))
        elif owner is loaded.Config:
            parts.append(_markdown(_docstring(owner)))
        if fields:
            parts.append(_table(owner, fields))
    links = re.findall(r"https?://\S+", module)
    if links:
        parts.append("## See\n\n" + "\n".join(f"- <{link.rstrip('.,')}>" for link in links))
    return "\n\n".join(parts) + "\n"


def _docstring(owner: object) -> str:
    told = inspect.getdoc(owner)
    assert told, f"{owner} has no docstring"
    return told


def _limits(loaded: Any) -> str:
    limits = loaded.limits
    events = "1 event" if limits.max_batch_events == 1 else f"{limits.max_batch_events} events"
    words = [f"At most {events} and {_size(limits.max_batch_bytes)} a batch"]
    if limits.linger_s:
        words.append(f"waits {limits.linger_s:g} s for more")
    if limits.concurrency > 1:
        words.append(f"up to {limits.concurrency} batches on their way at once")
    told = "; ".join(words) + "."
    largest = getattr(loaded, "max_event_bytes", None)
    return told if largest is None else f"{told} An event above {_size(largest)} in the vendor's form is a dead letter."


def _size(size: int) -> str:
    if size % 2**20 == 0:
        return f"{size >> 20} MiB"
    if size % 10**5 == 0 and size >= 10**6:
        return f"{size / 10**6:g} MB"
    return f"{size >> 10} KiB" if size % 2**10 == 0 else f"{size / 1000:g} kB"


def _install(kind: str) -> str:
    extras = metadata.metadata("wal_tracker").get_all("Provides-Extra") or []
    return f"`pip install 'wal_tracker[{kind}]'`" if kind in extras else ""


def _needs(kind: str) -> list[str]:
    command = _install(kind)
    return [f"Its libraries come with {command}."] if command else []


def _example(kind: str) -> str:
    text = EXAMPLES[kind]
    return "\n" + textwrap.indent(text, "    ") if text else " {}"


def _by_class(config: type) -> list[tuple[type, list[dataclasses.Field[Any]]]]:
    """The fields of a Config and of each class it inherits from, where they are declared last."""
    owners = [owner for owner in config.__mro__ if dataclasses.is_dataclass(owner)]
    fields: dict[type, list[dataclasses.Field[Any]]] = {owner: [] for owner in owners}
    for field in dataclasses.fields(config):
        owner = next(owner for owner in owners if field.name in vars(owner).get("__annotations__", {}))
        fields[owner].append(field)
    return [(owner, found) for owner, found in fields.items() if found or owner is config]


def _table(owner: type, fields: list[dataclasses.Field[Any]]) -> str:
    hints, told = get_type_hints(owner), _told(owner)
    lines = ["| option | form | default | what it says |", "|---|---|---|---|"]
    for field in fields:
        assert field.name in told, f"{owner.__qualname__}.{field.name} has no docstring"
        camel = registry.camel_case(field.name)
        name = f"`{field.name}`" + (f", `{camel}`" if camel != field.name else "")
        what = _flat(_markdown(told[field.name]))
        lines.append(f"| {name} | {_form(hints[field.name])} | {_default(field)} | {what} |")
    return "\n".join(lines)


def _told(owner: type) -> dict[str, str]:
    """The literal under each field."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    told = {}
    for field, literal in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(literal, ast.Expr):
            assert isinstance(literal.value, ast.Constant) and isinstance(literal.value.value, str)
            told[field.target.id] = inspect.cleandoc(literal.value.value)
    return told


def _form(hint: Any) -> str:
    """A type in plain words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_form(argument) for argument in arguments if argument is not type(None))
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is tuple:
        return f"list of {_form(arguments[0])}"
    if origin in (dict, collections.abc.Mapping):
        return f"mapping of names to {_form(arguments[1])}"
    words = {Secret: "secret", str: "text", bool: "true or false", int: "whole number", float: "number"}
    return words[hint]


def _default(field: dataclasses.Field[Any]) -> str:
    default = field.default
    if field.default_factory is not dataclasses.MISSING or default is None or default == ():
        return "none"
    if default is dataclasses.MISSING:
        return "required"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, (int, float)):
        return f"{default:.12g}"
    return f"`{default}`" if default else "empty"


def _markdown(text: str) -> str:
    """Docstrings mark code with two backticks or one; Markdown with one."""
    return text.replace("``", "`")


def _flat(text: str) -> str:
    """For a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the pages that differ, and take away those of kinds that are gone."""
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for name, text in wanted.items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(path.relative_to(FOLDER.parents[1]))
    for path in FOLDER.glob("*.md"):
        if path.name not in wanted:
            path.unlink()


if __name__ == "__main__":
    main()
