"""
A digest in a Slack channel, by an incoming webhook: how many events of which name, and the last few of them.

See: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
See: https://docs.slack.dev/reference/block-kit/blocks
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from wal_tracker.destinations.base import Limits, Mark, Receipt, Rejected
from wal_tracker.destinations.http import AnswerLost, HttpOptions, check_url
from wal_tracker.errors import DestinationRefusedUs
from wal_tracker.model import Deliverable
from wal_tracker.secret import Secret
from wal_tracker_destinations.batches import JSON

# Of a section's text. A message has 50 blocks at most and 40 000 characters.
_SECTION_CHARACTERS = 3000
_LINE_CHARACTERS = 700
_MAX_SHOWN = 40
_MAX_TEXT = 100
"""Characters of a name or a value that are shown."""

# From a gateway: Slack behind it may have posted.
_FROM_A_GATEWAY = frozenset({502, 504})


class Slack:
    """
    Posts one message for each batch; a batch is what happens within 30 seconds (`linger_s` of the delivery), and so
    far its position in the WAL is behind.

    A channel is read by many, so an event shows its name, its time, and of its properties those the configuration
    names. What is shown cannot make a link, a mention or a command.

    Slack drops no duplicates. A message whose answer was lost is posted again, as the same text with the same LSNs at
    its foot; with ``retry_ambiguous: false`` it is not, and its events become dead letters instead, because nobody
    knows whether they were posted. After a crash the last message may come again in any case. A message Slack refuses
    (400) is halved until the guilty event is found; a webhook that is gone or may not post (403, 404, 410) stops the
    delivery.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(HttpOptions):
        """Options of one channel."""

        webhook_url: Secret
        """``https://hooks.slack.com/services/…``; who knows it can post."""
        title: str = "wal_tracker"
        """Begins every message."""
        show: tuple[str, ...] = ()
        """Properties that may be shown; also ``event.id`` and ``event.distinct_id``. None unless named here."""
        shown: int = 5
        """So many of the last events are shown one by one, 0 to 40; all are counted."""
        retry_ambiguous: bool = True
        """Post again what may have been posted; False: make it dead letters."""
        interval_s: float = 1.0
        """Least time between two messages; Slack takes about one a second."""

        def __post_init__(self) -> None:
            HttpOptions.__post_init__(self)
            try:
                check_url(self.webhook_url.reveal())
            except ValueError as error:
                raise ValueError(f"webhook_url {error}") from error
            if not 0 <= self.shown <= _MAX_SHOWN:
                raise ValueError(f"shown must be 0 to {_MAX_SHOWN}")
            if not 0 <= self.interval_s <= 10:
                raise ValueError("interval_s must be 0 to 10")

    limits = Limits(max_batch_events=1000, max_batch_bytes=4 * 1024 * 1024, linger_s=30.0)
    accepts_raw: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        config: Config,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
            clock: Monotonic seconds; a test may give its own.
            sleep: Waits for seconds; likewise.
        """
        self.name, self.config = name, config
        self._http = config.client(name, config.webhook_url.reveal())
        self._clock, self._sleep = clock, sleep
        self._next = clock()

    def open(self, mark: Mark | None) -> None:  # noqa: ARG002 - the channel keeps what it has
        """Refuse an address that is not allowed before the first event."""
        self._http.check_address()

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Post the digest of the batch."""
        if not batch:
            return Receipt()
        body = orjson.dumps(self._message(batch))
        if (wait_s := self._next - self._clock()) > 0:
            self._sleep(wait_s)
        try:
            answer = self._http.post(body, JSON, judged=_FROM_A_GATEWAY)
        except AnswerLost as error:
            if self.config.retry_ambiguous:
                raise
            return self._unknown(batch, error.message)
        finally:
            self._next = self._clock() + self.config.interval_s
        if answer.status in _FROM_A_GATEWAY:
            if self.config.retry_ambiguous:
                raise self._http.verdict(answer)
            return self._unknown(batch, f"{self._http.origin} answered {answer.status}")
        if answer.body.strip() != b"ok":
            raise DestinationRefusedUs(
                self.name,
                f"{self._http.origin} answered {answer.status}, but not `ok` as Slack does; check webhook_url",
            )
        return Receipt()

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def _unknown(self, batch: Sequence[Deliverable], what: str) -> Receipt:
        reason = f"{what}; the message may have been posted, and retry_ambiguous is off"
        return Receipt(dict.fromkeys(range(len(batch)), Rejected(reason)))

    def _message(self, batch: Sequence[Deliverable]) -> dict[str, Any]:
        """The same for the same batch: nothing of the time of day is in it."""
        heading = f"{_escaped(self.config.title)}: {len(batch)} event{'s' if len(batch) > 1 else ''}"
        counts = Counter(event.name for event in batch).most_common()
        kinds = _joined([f"*{heading}*", *(f"{count} × {_escaped(name)}" for name, count in counts)], "\n")
        shown = batch[-self.config.shown :] if self.config.shown else ()
        first, last = batch[0].source["commit_lsn"], batch[-1].source["commit_lsn"]
        foot = f"commits at {first}" if first == last else f"commits from {first} to {last}"
        return {
            "text": f"{heading}, the last {_escaped(batch[-1].name)}",
            # Slack fetches no URL that stands in an event.
            "unfurl_links": False,
            "unfurl_media": False,
            "blocks": [
                _section(kinds),
                *(_section(self._line(event)) for event in shown),
                {"type": "context", "elements": [_text(foot)]},
            ],
        }

    def _line(self, event: Deliverable) -> str:
        values = [
            f"{_escaped(name)}={_escaped(value)}"
            for name in self.config.show
            if (value := _shown(event, name)) is not None
        ]
        return _joined([f"`{_escaped(event.name)}` {_escaped(event.timestamp)}", *values], "  ", _LINE_CHARACTERS)


def _shown(event: Deliverable, name: str) -> str | None:
    """A property as text; None where the event does not have it."""
    if name == "event.id":
        return event.id
    if name == "event.distinct_id":
        return event.distinct_id
    if name not in event.properties:
        return None
    value = event.properties[name]
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _escaped(text: str) -> str:
    """
    One line that Slack shows as it is.

    Slack asks for these three to be escaped, and makes nothing of the rest where the text is `verbatim`, but bold,
    italic, strike and code.
    """
    # Cut first: a value may have megabytes.
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 10 * _MAX_TEXT]).split())
    if len(text) > _MAX_TEXT:
        text = text[: _MAX_TEXT - 1] + "…"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _joined(parts: Sequence[str], separator: str, most: int = _SECTION_CHARACTERS) -> str:
    """As many parts as fit, and how many did not."""
    # For the separator and the words at the end.
    room = most - 30
    taken: list[str] = []
    for part in parts:
        room -= len(part) + len(separator)
        if room < 0:
            return separator.join([*taken, f"… and {len(parts) - len(taken)} more"])
        taken.append(part)
    return separator.join(taken)


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _text(text)}


def _text(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text, "verbatim": True}
