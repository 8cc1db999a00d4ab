"""The Slack destination against a channel that posts what is well formed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.support.fake_slack import FakeSlack
from tests.support.http_server import Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Rejected
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.testing import make_event
from wal_tracker_destinations.slack import Slack


@pytest.fixture
def channel() -> Iterator[FakeSlack]:
    with FakeSlack() as made:
        yield made


def slack(channel: FakeSlack, **options: Any) -> Slack:
    given = {**channel.options, "request_timeout_s": 0.5, **options}
    return Slack("slack", registry.read_config(Slack.Config, given, "destinations.slack", defaults={}))


def texts(message: dict[str, Any]) -> list[str]:
    return [
        block["text"]["text"] if block["type"] == "section" else block["elements"][0]["text"]
        for block in message["blocks"]
    ]


def test_a_digest_counts_all_and_shows_the_last(channel: FakeSlack) -> None:
    """Names by how often they happened, then the last few in order, then which commits it is about."""
    events = [make_event(number) for number in range(1, 5)] + [make_event(5, name="account_closed")]

    slack(channel, title="shop", show=["number"], shown=2).deliver(events)

    (message,) = channel.messages
    assert message["text"] == "shop: 5 events, the last account_closed"
    assert texts(message) == [
        "*shop: 5 events*\n4 × order_placed\n1 × account_closed",
        "`order_placed` 2026-01-02T03:04:05.123456Z  number=4",
        "`account_closed` 2026-01-02T03:04:05.123456Z  number=5",
        "commits from 0/100 to 0/500",
    ]
    assert (message["unfurl_links"], message["unfurl_media"]) == (False, False)


def test_the_same_batch_is_the_same_message(channel: FakeSlack) -> None:
    """Whenever it is posted; somebody who sees it twice sees that."""
    for _ in range(2):
        slack(channel).deliver([make_event(1), make_event(2)])

    first, second = channel.requests
    assert first.body == second.body


def test_nothing_is_shown_that_is_not_named(channel: FakeSlack) -> None:
    """Neither properties nor whom the event is about; NULL and absent are told apart."""
    event = make_event(1, properties={"email": "a@example.com", "note": None, "total": orjson.Fragment("79.00")})

    slack(channel, show=[]).deliver([event])
    slack(channel, show=["total", "note", "missing", "event.distinct_id"]).deliver([event])

    bare, some = (texts(message)[1] for message in channel.messages)
    assert bare == "`order_placed` 2026-01-02T03:04:05.123456Z"
    assert some == f"{bare}  total=79.00  note=null  event.distinct_id=1"
    assert b"example.com" not in channel.requests[0].body + channel.requests[1].body


def test_a_value_can_be_no_link_mention_or_line(channel: FakeSlack) -> None:
    """It is text, whatever it says."""
    value = "<!channel> & <https://evil.example|click>\n*order_paid*\u2028 \u202e"

    slack(channel, show=["text"]).deliver([make_event(1, name="a<b>", properties={"text": value})])

    (message,) = channel.messages
    assert texts(message)[1] == (
        "`a&lt;b&gt;` 2026-01-02T03:04:05.123456Z  "
        "text=&lt;!channel&gt; &amp; &lt;https://evil.example|click&gt; *order_paid*"
    )
    assert all(block["text"]["verbatim"] for block in message["blocks"][:-1])
    assert len(channel.stored) == 1


def test_no_message_is_beyond_slacks_limits(channel: FakeSlack) -> None:
    """However many names, properties and characters there are; what is left out is counted."""
    names = [f"p{number}" for number in range(50)]
    properties = dict.fromkeys(names, "&" * 500_000)
    events = [make_event(number, name=f"event_{number}" + "<" * 200, properties=properties) for number in range(200)]

    slack(channel, title="&" * 500, show=names, shown=40).deliver(events)

    (message,) = channel.messages
    assert len(channel.stored) == 40
    heading, line, *_ = texts(message)
    assert heading.endswith("more") and len(heading) <= 3000
    assert line.endswith("… and 50 more") and len(line) <= 700
    assert not any(text.rstrip("…").endswith(("&", "&a", "&am", "&amp", "&l", "&lt")) for text in heading.split("\n"))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(400, b"invalid_payload"), BatchRefused),
        (Reply(403, b"action_prohibited"), DestinationRefusedUs),
        (Reply(404, b"no_service"), DestinationRefusedUs),
        (Reply(410, b"channel_is_archived"), DestinationRefusedUs),
        (Reply(200, b"<html>"), DestinationRefusedUs),
        (Reply(200, b""), DestinationRefusedUs),
        (Reply(429, headers={"Retry-After": "30"}), DestinationUnavailable),
        (Reply(500, b"rollup_error"), DestinationUnavailable),
        (Reply(502), DestinationUnavailable),
        (Reply(504), DestinationUnavailable),
        (Reply(fault="hang"), DestinationUnavailable),
    ],
    ids=lambda value: str(getattr(value, "fault", None) or getattr(value, "status", "")),
)
def test_each_answer_has_its_meaning(channel: FakeSlack, reply: Reply, error: type[Exception]) -> None:
    """Slack says `ok`, or a status and a word."""
    channel.script.append(reply)

    with pytest.raises(error) as caught:
        slack(channel).deliver([make_event(1)])
    assert getattr(caught.value, "retry_after_s", None) == (30.0 if "Retry-After" in reply.headers else None)
    assert channel.key not in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [Reply(fault="hang_after_processing"), Reply(fault="close_after_processing"), Reply(502), Reply(504)],
    ids=lambda reply: reply.fault or str(reply.status),
)
def test_what_may_have_been_posted_is_not_posted_again_where_that_is_asked_for(
    channel: FakeSlack, reply: Reply
) -> None:
    """It is not counted as delivered either: every event becomes a dead letter that says so."""
    channel.script.append(reply)

    outcomes = slack(channel, retry_ambiguous=False).deliver([make_event(1), make_event(2)]).outcomes

    assert list(outcomes) == [0, 1]
    for outcome in outcomes.values():
        assert isinstance(outcome, Rejected) and "may have been posted" in outcome.reason
        assert channel.key not in outcome.reason


@pytest.mark.parametrize("reply", [Reply(429), Reply(500), Reply(503)], ids=lambda reply: str(reply.status))
def test_what_was_surely_not_posted_is_posted_again_all_the_same(channel: FakeSlack, reply: Reply) -> None:
    """Slack's own word for it, or nobody who listens."""
    channel.script.append(reply)
    destination = slack(channel, retry_ambiguous=False)

    with pytest.raises(DestinationUnavailable):
        destination.deliver([make_event(1)])
    channel.close()
    with pytest.raises(DestinationUnavailable, match="refuses connections"):
        slack(channel, retry_ambiguous=False).deliver([make_event(1)])


def test_two_messages_are_a_second_apart(channel: FakeSlack) -> None:
    """Also after one that was refused; the first does not wait."""
    now, waits = [100.0], list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    config = registry.read_config(
        Slack.Config, {**channel.options, "interval_s": 1.0}, "destinations.slack", defaults={}
    )
    destination = Slack("slack", config, clock=lambda: now[0], sleep=sleep)
    destination.deliver([make_event(1)])
    now[0] += 0.25
    channel.script.append(Reply(400))
    with pytest.raises(BatchRefused):
        destination.deliver([make_event(2)])
    destination.deliver([make_event(2)])
    now[0] += 5
    destination.deliver([make_event(3)])

    assert waits == [0.75, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs webhook_url"),
        ({"webhook_url": "hooks/s3cret"}, "webhook_url is not a URL"),
        ({"webhook_url": "https://hooks.slack.com/services/s3cret", "shown": 41}, "shown must be 0 to 40"),
        ({"webhook_url": "https://hooks.slack.com/services/s3cret", "interval_s": -1}, "interval_s must be 0 to 10"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    """At load, by name, and without repeating the URL."""
    with pytest.raises(ConfigError, match=message) as caught:
        registry.build("slack", "slack", options, "destinations.slack")

    assert "s3cret" not in str(caught.value)
    assert not Slack.accepts_raw
