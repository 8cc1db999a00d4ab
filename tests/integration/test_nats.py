"""The NATS destination against real NATS servers."""

from __future__ import annotations

import base64
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nkeys
import pytest

from tests.support.delivered import deliver
from tests.support.postgres import wait_until
from tests.support.proxy import ChaosProxy
from tests.support.streams import NatsServer, free_port
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import Outcome, Rejected, Retry
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import RawChange
from wal_tracker.testing import DestinationContract, make_event
from wal_tracker_destinations.nats import Nats
from wal_tracker_destinations.nats_wire import NatsConnection, NatsError, NatsOptions, header_lines

Servers = Callable[..., NatsServer]
Build = Callable[..., Nats]
EVENTS = [make_event(number) for number in range(1, 8)]
IDS = [event.id for event in EVENTS]
NO_STREAM = "no stream takes events.{event}; create EVENTS with that subject"


def seed(kind: int, number: int) -> str:
    """The seed of an NKey, the same each time; see https://docs.nats.io/using-nats/developer/connecting/nkey."""
    return nkeys.encode_seed(bytes([number]) * 32, kind).decode()


SEED = seed(nkeys.PREFIX_BYTE_USER, 1)


@pytest.fixture
def build() -> Iterator[Build]:
    """Builds destinations as a configuration does, and closes them."""
    built: list[Nats] = []

    def make(server: NatsServer | str, **options: Any) -> Nats:
        url = server if isinstance(server, str) else server.url
        given = {"servers": [url], "stream": "EVENTS", "request_timeout_s": 1.0, **options}
        made = registry.build("nats", "nats", given, "destinations.nats")
        assert isinstance(made, Nats)
        built.append(made)
        return made

    yield make
    for made in built:
        made.close()


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """One with the stream."""
    made = nats_server()
    made.create_stream()
    return made


def reason(outcome: Outcome) -> str:
    """Why it must come again."""
    assert isinstance(outcome, Retry)
    return outcome.reason


@pytest.mark.of_kind("nats")
class TestNats(DestinationContract):
    """One stream of a real server."""

    secrets = ("s3cret-of-nats",)

    @pytest.fixture(autouse=True)
    def its_server(self, nats_server: Servers) -> Iterator[None]:
        self.nats = nats_server(f'authorization {{ token: "{self.secrets[0]}" }}')
        self.login = {"token": registry.Secret(self.secrets[0])}
        self.nats.create_stream(login=self.login)
        self.built: list[Nats] = []
        yield
        for made in self.built:
            made.close()

    def build(self) -> Nats:
        given = {"servers": [self.nats.url], "stream": "EVENTS", "token": self.secrets[0]}
        made = registry.build("nats", "nats", given, "destinations.nats")
        assert isinstance(made, Nats)
        self.built.append(made)
        return made

    def received(self) -> list[str]:
        return self.nats.ids(**self.login)


# What is written ---------------------------------------------------------------------------------------


def test_a_message_is_the_events_own_json_under_its_name(server: NatsServer, build: Build) -> None:
    """With its id where JetStream looks for it."""
    event = make_event(1, properties={"name": "Zoë\r\n", "none": None})

    build(server).deliver([event])

    (message,) = server.messages()
    assert message["subject"] == "events.order_placed"
    assert message["headers"] == {"Nats-Msg-Id": event.id, "Nats-Expected-Stream": "EVENTS"}
    assert message["data"] == event.to_json()
    assert json.loads(message["data"])["properties"] == {"number": 1, "name": "Zoë\r\n", "none": None}


def test_a_name_is_one_token_whatever_is_in_it(server: NatsServer, build: Build) -> None:
    """A dot would be two, an asterisk a wildcard, and a line end the end of the command."""
    names = ["order.placed", "a b\r\nPUB x", "*", ">", "größe", "\x00"]

    receipt = build(server).deliver([make_event(1, name=name) for name in names])

    assert not receipt.outcomes
    tokens = ("order_placed", "a_b__PUB_x", "_", "_", "größe", "_")
    assert [message["subject"] for message in server.messages()] == [f"events.{token}" for token in tokens]


def test_a_raw_change_goes_by_its_table(nats_server: Servers, build: Build) -> None:
    """Operation and all."""
    server = nats_server()
    server.create_stream("EVENTS", "wal.>")
    change = RawChange(
        "0b0e8b8e-3a6c-5a0e-9d55-111111111111",
        "public.orders.delete",
        "2026-01-02T03:04:05Z",
        {"op": "delete", "old": {"id": 7}},
        {"op": "delete", "schema": "public", "table": "orders"},
    )

    build(server, subject="wal.{schema}.{table}.{op}").deliver([change])

    (message,) = server.messages()
    assert message["subject"] == "wal.public.orders.delete"
    assert json.loads(message["data"]) == {"op": "delete", "old": {"id": 7}}
    assert Nats.accepts_raw


# Once, and in order ------------------------------------------------------------------------------------


def test_what_comes_again_within_the_window_is_stored_once(server: NatsServer, build: Build) -> None:
    """By another process, in other batches, and mixed with what is new."""
    build(server).deliver(EVENTS[:5])

    build(server).deliver(EVENTS[2:4])
    receipt = build(server).deliver(EVENTS[3:7])

    assert not receipt.outcomes
    assert server.ids() == IDS


def test_beyond_the_window_it_is_stored_again_with_the_same_id(nats_server: Servers, build: Build) -> None:
    """What the page says; JetStream forgets by time."""
    server = nats_server()
    server.create_stream(duplicate_window=100_000_000)
    destination = build(server)
    destination.deliver(EVENTS[:1])

    def came_again() -> bool:
        destination.deliver(EVENTS[:1])
        return len(server.ids()) > 1

    wait_until(came_again)
    assert set(server.ids()) == {IDS[0]}


def test_an_event_that_comes_late_is_stored_late(server: NatsServer, build: Build) -> None:
    """A replayed dead letter."""
    destination = build(server)
    destination.deliver([*EVENTS[:2], *EVENTS[3:]])

    destination.deliver([EVENTS[2]])

    assert server.ids() == [*IDS[:2], *IDS[3:], IDS[2]]


def test_many_batches_of_many_events_arrive_in_order(server: NatsServer, build: Build) -> None:
    """More than may be on their way at once."""
    events = [make_event(number) for number in range(700)]

    delivery, letters = deliver(build(server), events)

    assert (delivery.failure, letters) == (None, [])
    assert server.ids() == [event.id for event in events]
    assert delivery.position().lsn == LSN(10_000_000)


def test_somebody_elses_messages_in_between_cost_neither_order_nor_event(
    server: NatsServer, build: Build, background: Callable[..., Any]
) -> None:
    """Others publish to the stream all the while, without ids."""
    destination = build(server)
    events = [make_event(number) for number in range(300)]
    done: list[bool] = []
    published: list[int] = []

    def publish() -> None:
        other = NatsConnection(server.url, NatsOptions(servers=(server.url,)))
        for number in range(5000):
            if done:
                break
            published.append(number)
            other.publish("events.other", str(number), header_lines({}), b"theirs")
            other.flush()
            next(other.replies(time.monotonic() + 10))
        other.close()

    background(publish)
    wait_until(lambda: published)
    try:
        receipts = [destination.deliver(events[first : first + 100]) for first in range(0, 300, 100)]
    finally:
        done.append(True)

    assert not any(receipt.outcomes for receipt in receipts)
    stored = server.ids()
    assert [id for id in stored if id] == [event.id for event in events]
    assert "" in stored[stored.index(events[0].id) : stored.index(events[-1].id)]


def test_a_message_is_not_stored_before_the_one_ahead_of_it(nats_server: Servers, build: Build) -> None:
    """A subject of the batch has no stream yet: what follows its event waits for it, although it could be stored."""
    server = nats_server()
    server.create_stream("EVENTS", "events.good")
    destination = build(server)
    batch = [make_event(n, name="bad" if n == 2 else "good") for n in range(5)]

    receipt = destination.deliver(batch)

    assert sorted(receipt.outcomes) == [2, 3, 4]
    assert {reason(outcome) for outcome in receipt.outcomes.values()} == {NO_STREAM}
    assert server.ids() == [event.id for event in batch[:2]]
    server.request("$JS.API.STREAM.UPDATE.EVENTS", {"name": "EVENTS", "subjects": ["events.>"], "storage": "file"})
    assert not destination.deliver(batch[2:]).outcomes
    assert server.ids() == [event.id for event in batch]


# What is refused for good --------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["of the server", "of the stream"])
def test_an_event_that_is_too_large_is_the_only_dead_letter(nats_server: Servers, build: Build, limit: str) -> None:
    """Before it is sent, where the server would close the connection for it; or by the stream's own limit."""
    server = nats_server("max_payload: 4096" if limit == "of the server" else "")
    server.create_stream(**({"max_msg_size": 4096} if limit == "of the stream" else {}))
    events = [*EVENTS[:3], make_event(100, properties={"text": "x" * 5000}), *EVENTS[3:]]

    delivery, letters = deliver(build(server), events)

    assert server.ids() == IDS
    assert delivery.failure is None
    assert [letter.id for letter in letters] == [events[3].id]
    assert "max_payload" in letters[0].reason or "max_msg_size" in letters[0].reason
    assert "xxx" not in letters[0].reason


def test_the_largest_event_the_server_takes_is_taken(nats_server: Servers, build: Build) -> None:
    """To the byte, second in its batch where its headers are longest; one byte more is refused."""
    server = nats_server("max_payload: 4096")
    server.create_stream()
    base = make_event(2, properties={"text": ""})
    headers = {"Nats-Msg-Id": base.id, "Nats-Expected-Stream": "EVENTS", "Nats-Expected-Last-Msg-Id": base.id}
    room = 4096 - len(header_lines(headers)) - len(base.to_json())

    fits = build(server).deliver([EVENTS[0], make_event(2, properties={"text": "x" * room})])
    too_large = build(server).deliver([EVENTS[0], make_event(3, properties={"text": "x" * (room + 1)})])

    assert not fits.outcomes
    assert isinstance(too_large.outcomes[1], Rejected)
    assert server.ids() == [EVENTS[0].id, base.id]


def test_a_name_too_long_for_a_command_is_a_dead_letter(server: NatsServer, build: Build) -> None:
    """The server would end the connection for it, again and again."""
    delivery, letters = deliver(build(server), [EVENTS[0], make_event(9, name="n" * 5000), EVENTS[1]])

    assert server.ids() == IDS[:2]
    assert "subject" in letters[0].reason and len(letters) == 1
    assert delivery.failure is None


# Faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut_after", [7, 150], ids=["cut before the answers", "cut among the answers"])
def test_lost_acknowledgements_bring_the_batch_again_and_leave_it_once(
    server: NatsServer, build: Build, cut_after: int
) -> None:
    """JetStream has stored it; we cannot know."""
    with ChaosProxy(server.port) as line:
        destination = build(f"nats://127.0.0.1:{line.port}", request_timeout_s=0.6)
        destination.deliver(EVENTS[:2])
        # PONG comes first.
        line.truncate_after = cut_after

        receipt = destination.deliver(EVENTS)
        wait_until(lambda: server.ids() == IDS)
        left = sorted(receipt.outcomes)
        assert left and left == list(range(left[0], 7))
        assert all(isinstance(outcome, Retry) for outcome in receipt.outcomes.values())
        destination.deliver(EVENTS[left[0] :])

    assert server.ids() == IDS


def test_trouble_on_the_line_costs_no_event_and_doubles_none(server: NatsServer, build: Build) -> None:
    """Connections are reset, between requests and with acknowledgements on the way; all is there, once and in order."""
    events = [make_event(number) for number in range(600)]
    with ChaosProxy(server.port) as line:

        def lose_the_answers() -> None:
            line.truncate_after = 500

        trouble = [lose_the_answers, line.cut, lose_the_answers, lose_the_answers]
        delivery, letters = deliver(
            build(f"nats://127.0.0.1:{line.port}"), events, max_batch_events=50, trouble=trouble
        )

    assert (delivery.failure, letters) == (None, [])
    assert delivery.retries >= 3
    assert server.ids() == [event.id for event in events]


def test_a_dead_line_is_noticed(server: NatsServer, build: Build) -> None:
    """Nothing is closed, and nothing comes: after request_timeout_s it is as good as closed."""
    with ChaosProxy(server.port) as line:
        destination = build(f"nats://127.0.0.1:{line.port}", request_timeout_s=0.3)
        destination.deliver(EVENTS[:2])
        line.blackhole = True
        begun = time.monotonic()
        with pytest.raises(DestinationUnavailable, match="cannot talk to NATS"):
            destination.deliver(EVENTS)
        assert time.monotonic() - begun < 3
        line.blackhole = False
        destination.deliver(EVENTS)

    assert server.ids() == IDS


@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_a_restart_of_the_server_keeps_what_it_has_acknowledged_and_its_ids(
    server: NatsServer, build: Build, end: str
) -> None:
    """File storage; the duplicate window is read back from it."""
    destination = build(server)
    destination.deliver(EVENTS[:4])
    getattr(server, end)()
    with pytest.raises(DestinationUnavailable, match="cannot talk to NATS"):
        destination.deliver(EVENTS)
    server.start()

    wait_until(lambda: not _fails(destination))

    assert server.ids() == IDS


def _fails(destination: Nats) -> bool:
    """JetStream is not there yet when the server takes connections."""
    try:
        return bool(destination.deliver(EVENTS).outcomes)
    except DestinationUnavailable:
        return True


def test_an_idle_connection_stays_usable(nats_server: Servers, build: Build) -> None:
    """The server asks whether we are there while nothing is published, and gives up after two questions."""
    server = nats_server('ping_interval: "1s"\nping_max: 1\ndebug: true')
    server.create_stream()
    destination = build(server)
    destination.deliver(EVENTS[:1])
    wait_until(lambda: "Stale Client Connection" in server.log_text())

    destination.deliver(EVENTS)

    assert server.ids() == IDS


def test_a_server_that_is_down_at_the_start_is_waited_for(
    server: NatsServer, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """`open` does not fail for it."""
    server.stop()

    delivery, letters = deliver(build(server), EVENTS, trouble=[server.start])

    assert (delivery.failure, letters, server.ids()) == (None, [], IDS)
    assert "not reachable yet" in caplog.text


def test_the_first_server_that_takes_us_is_used(server: NatsServer, build: Build) -> None:
    """One that is down is passed over."""
    nobody = f"nats://127.0.0.1:{free_port()}"

    build(nobody, servers=[nobody, server.url]).deliver(EVENTS)

    assert server.ids() == IDS


def test_a_missing_stream_is_waited_for(
    nats_server: Servers, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """And said what is to be done, at the start and at the event; created, it gets all."""
    server = nats_server()
    destination = build(server)
    destination.open(None)
    assert "does not exist" in caplog.text
    receipt = destination.deliver(EVENTS)
    assert sorted(receipt.outcomes) == list(range(7))
    assert {reason(outcome) for outcome in receipt.outcomes.values()} == {NO_STREAM}

    delivery, letters = deliver(destination, EVENTS, trouble=[server.create_stream])

    assert (delivery.failure, letters, server.ids()) == (None, [], IDS)


def test_a_full_stream_is_waited_for(nats_server: Servers, build: Build) -> None:
    """Nothing is a dead letter for it, and nothing overtakes."""
    server = nats_server()
    server.create_stream(max_msgs=3, discard="new")
    destination = build(server)

    receipt = destination.deliver(EVENTS)

    assert sorted(receipt.outcomes) == [3, 4, 5, 6]
    first = receipt.outcomes[3]
    assert isinstance(first, Retry) and "maximum messages exceeded (10077)" in first.reason
    wanted = {"name": "EVENTS", "subjects": ["events.>"], "storage": "file", "max_msgs": 10, "discard": "new"}
    server.request("$JS.API.STREAM.UPDATE.EVENTS", wanted)
    assert not destination.deliver(EVENTS[3:]).outcomes
    assert server.ids() == IDS


# Who refuses us --------------------------------------------------------------------------------------------

PUBLIC_KEY = nkeys.from_seed(bytearray(SEED.encode())).public_key.decode()
LOGINS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "token": ('token: "s3cret-of-nats"', {"token": "s3cret-of-nats"}, {"token": "wr0ng-secret"}),
    "password": (
        'user: "we", password: "s3cret-of-nats"',
        {"user": "we", "password": "s3cret-of-nats"},
        {"user": "we", "password": "wr0ng-secret"},
    ),
    "nkey": (
        f"users: [{{nkey: {PUBLIC_KEY}}}]",
        {"nkey_seed": SEED},
        {"nkey_seed": seed(nkeys.PREFIX_BYTE_USER, 2)},
    ),
}


@pytest.mark.parametrize("way", LOGINS)
def test_each_way_to_log_in_works_and_a_wrong_one_stops(nats_server: Servers, build: Build, way: str) -> None:
    """It stops at the start, and dead-letters nothing."""
    authorization, right, wrong = LOGINS[way]
    server = nats_server(f"authorization {{ {authorization} }}")
    login = {name: registry.Secret(value) if name != "user" else value for name, value in right.items()}
    server.create_stream(login=login)

    build(server, **right).deliver(EVENTS)

    assert server.ids(**login) == IDS
    for options in (wrong, {}):
        with pytest.raises(DestinationRefusedUs, match="Authorization Violation") as refusal:
            build(server, **options).open(None)
        assert not [text for text in (*wrong.values(), "s3cret") if len(text) > 2 and text in str(refusal.value)]
        refused = build(server, **options)
        with pytest.raises(DestinationRefusedUs):
            refused.deliver(EVENTS)


def jwt(subject: str, issuer_seed: str, claims: dict[str, Any]) -> str:
    """A token as `nsc` makes them: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/jwt."""
    issuer = nkeys.from_seed(bytearray(issuer_seed.encode()))
    body = {"jti": "1", "iat": 1, "iss": issuer.public_key.decode(), "name": "x", "sub": subject}
    parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, {**body, "nats": {"version": 2, **claims}})
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    return (signed + b"." + base64.urlsafe_b64encode(issuer.sign(signed)).rstrip(b"=")).decode()


def test_a_credentials_file_logs_in_where_an_operator_trusts_its_account(
    nats_server: Servers, build: Build, tmp_path: Path
) -> None:
    """As `nsc` writes it, read again at each login: with somebody else's key for the token it is refused."""
    operator_seed, account_seed = seed(nkeys.PREFIX_BYTE_OPERATOR, 3), seed(nkeys.PREFIX_BYTE_ACCOUNT, 4)
    operator, account, system = (
        nkeys.from_seed(bytearray(given.encode())).public_key.decode()
        for given in (operator_seed, account_seed, seed(nkeys.PREFIX_BYTE_ACCOUNT, 5))
    )
    limits = {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1}
    limits |= {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    accounts = {
        account: jwt(account, operator_seed, {"type": "account", "limits": limits}),
        system: jwt(system, operator_seed, {"type": "account"}),
    }
    user_jwt = jwt(PUBLIC_KEY, account_seed, {"type": "user", "subs": -1, "data": -1, "payload": -1})
    server = nats_server(
        f"operator: {jwt(operator, operator_seed, {'type': 'operator'})}\n"
        f"system_account: {system}\nresolver: MEMORY\nresolver_preload: {json.dumps(accounts)}"
    )
    path = tmp_path / "user.creds"

    def write(user_seed: str) -> None:
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            f"-----BEGIN USER NKEY SEED-----\n{user_seed}\n------END USER NKEY SEED------\n"
        )

    write(SEED)
    server.create_stream(login={"credentials": str(path)})
    destination = build(server, credentials=str(path))
    destination.deliver(EVENTS)
    assert server.ids(credentials=str(path)) == IDS

    destination.close()
    write(seed(nkeys.PREFIX_BYTE_USER, 2))
    with pytest.raises(DestinationRefusedUs, match="Authorization Violation"):
        destination.deliver(EVENTS)
    path.write_text("nothing")
    with pytest.raises(DestinationRefusedUs, match=r"no \.creds file"):
        destination.deliver(EVENTS)


def test_credentials_that_are_changed_later_stop_it(nats_server: Servers, build: Build) -> None:
    """What was delivered stays, the rest waits, and nothing is a dead letter."""
    server = nats_server('authorization { token: "old" }')
    server.create_stream(login={"token": registry.Secret("old")})

    def rotate() -> None:
        server.stop()
        file = server.directory / "nats.conf"
        file.write_text(file.read_text().replace('"old"', '"new"'))
        server.start()

    delivery, letters = deliver(build(server, token="old"), EVENTS, max_batch_events=2, trouble=[rotate])

    assert isinstance(delivery.failure, DestinationRefusedUs)
    assert letters == []
    assert delivery.position().lsn == LSN(0)
    assert server.ids(token=registry.Secret("new")) == IDS[:2]


def test_a_user_that_may_not_publish_there_stops_it(nats_server: Servers, build: Build) -> None:
    """What it is allowed to, it may do without reading the stream's configuration."""
    server = nats_server(
        "authorization { users: [{user: admin, password: x}, {user: we, password: y, permissions: "
        '{publish: "events.good", subscribe: "_INBOX.>"}}] }'
    )
    admin = {"user": "admin", "password": registry.Secret("x")}
    server.create_stream(login=admin)
    destination = build(server, user="we", password="y")
    destination.open(None)

    assert not destination.deliver([make_event(1, name="good")]).outcomes
    with pytest.raises(DestinationRefusedUs, match="Permissions Violation for Publish"):
        destination.deliver([make_event(1, name="bad")])

    assert server.ids(**admin) == [make_event(1, name="good").id]


def test_another_streams_subject_and_another_answerer_are_refused(
    nats_server: Servers, build: Build, background: Callable[..., Any]
) -> None:
    """An event must not land in a stream nobody named, and an answer that is no acknowledgement is none."""
    server = nats_server()
    server.create_stream("OTHER", "events.>")
    with pytest.raises(DestinationRefusedUs, match="belongs to another stream"):
        build(server).deliver(EVENTS)
    assert server.ids("OTHER") == []

    with socket.create_connection(("127.0.0.1", server.port)) as plain, plain.makefile("rb") as lines:
        plain.sendall(b'CONNECT {"verbose":false}\r\nSUB talk.* 1\r\nPING\r\n')
        while lines.readline() != b"PONG\r\n":
            pass

        def answer() -> None:
            words = lines.readline().split()
            plain.sendall(b"PUB %b 5\r\nhello\r\n" % words[3])

        background(answer)
        with pytest.raises(DestinationRefusedUs, match="something else than JetStream"):
            build(server, subject="talk.{event}").deliver(EVENTS[:1])


def test_tls_is_asked_for_and_checked(
    nats_server: Servers, build: Build, tls_files: tuple[Path, Path, Path], server: NatsServer
) -> None:
    """The right authority, none, a name the certificate is not for; and `tls://` to a server that has none."""
    authority, certificate, key = tls_files
    secured = nats_server(f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}')
    url = f"://localhost:{secured.port}"
    trusting = NatsOptions(servers=("tls" + url,), ca_file=str(authority))
    NatsConnection("tls" + url, trusting).close()

    for scheme in ("tls", "nats"):
        receipt = build(scheme + url, ca_file=str(authority)).deliver(EVENTS)
        assert {reason(outcome) for outcome in receipt.outcomes.values()} == {NO_STREAM}
        with pytest.raises(DestinationRefusedUs, match="not trusted"):
            build(scheme + url).open(None)
        with pytest.raises(DestinationRefusedUs, match="not trusted"):
            build(f"{scheme}://127.0.0.1:{secured.port}", ca_file=str(authority)).open(None)
    with pytest.raises(DestinationRefusedUs, match="offers no TLS"):
        build(f"tls://127.0.0.1:{server.port}", token="s3cret-of-nats").open(None)


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad\r\n", b"INFO {no json}\r\n", b"INFO []\r\n", b"x" * 2_000_000])
def test_what_is_not_nats_is_told_so(said: bytes, background: Callable[..., Any]) -> None:
    """Somebody else's port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(said)
                except OSError:
                    return

        background(speak)
        url = f"nats://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(NatsError, match="not NATS"):
            NatsConnection(url, NatsOptions(servers=(url,), request_timeout_s=5))


# What it says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, []),
        ({"duplicate_window": 30_000_000_000}, ["duplicate window is short"]),
        ({"storage": "memory"}, ["kept in memory"]),
    ],
    ids=["as it should be", "short window", "memory"],
)
def test_a_stream_that_may_forget_is_told_of(
    nats_server: Servers, build: Build, caplog: pytest.LogCaptureFixture, config: dict[str, Any], said: list[str]
) -> None:
    """Once, at the start."""
    server = nats_server()
    server.create_stream(**config)

    build(server).open(None)

    messages = [record.getMessage() for record in caplog.records if record.name.startswith("wal_tracker")]
    assert len(messages) == len(said)
    assert all(word in message for word, message in zip(said, messages, strict=True))


def test_a_stream_that_acknowledges_nothing_is_refused(nats_server: Servers, build: Build) -> None:
    """Every batch would wait in vain."""
    server = nats_server()
    server.create_stream(no_ack=True)

    with pytest.raises(DestinationRefusedUs, match="no_ack"):
        build(server).open(None)


def test_no_log_line_holds_a_secret_or_a_value(
    nats_server: Servers, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """Through refusals of every kind."""
    canary, secret = "canary-7f3a", "s3cret-of-nats"
    server = nats_server(f'authorization {{ token: "{secret}" }}\nmax_payload: 4096')
    login = {"token": registry.Secret(secret)}
    server.create_stream(login=login, max_msgs=2, discard="new")
    events = [make_event(number, properties={"note": canary * (600 if number == 1 else 1)}) for number in range(4)]

    with caplog.at_level(logging.DEBUG):
        receipt = build(server, token=secret).deliver(events)
        with pytest.raises(DestinationRefusedUs) as refusal:
            build(server, token="wr0ng" + secret).open(None)

    assert isinstance(receipt.outcomes[1], Rejected) and isinstance(receipt.outcomes[3], Retry)
    ours = [record for record in caplog.records if record.name.startswith("wal_tracker")]
    shown = f"{refusal.value} {receipt} " + " ".join(f"{record.getMessage()} {vars(record)}" for record in ours)
    assert canary not in shown and secret not in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"servers": []}, "servers must not be empty"),
        ({"servers": ["http://host"]}, "not a URL of NATS"),
        ({"servers": ["nats://s3cret@host"]}, "must hold no credentials"),
        ({"servers": ["nats://[s3cret"]}, "servers: not a URL"),
        ({"servers": ["nats://host/path"]}, "not a URL of NATS"),
        ({"stream": "a.b"}, "stream must be the name of a stream"),
        ({"stream": ""}, "stream must be the name of a stream"),
        ({"subject": "events.{evnt}"}, r"subject has \{evnt\}; there are \{event\}"),
        ({"subject": "{event}"}, "must begin with a token of its own"),
        ({"subject": "$JS.{event}"}, "must begin with a token of its own"),
        ({"subject": "events..{event}"}, "subject must be tokens"),
        ({"subject": "events.>"}, "subject must be tokens"),
        ({"subject": "events.a b"}, "subject must be tokens"),
        ({"user": "we"}, "user needs password"),
        ({"token": "s3cret", "user": "we", "password": "s3cret"}, "more than one way to log in: token, user"),
        ({"nkey_seed": "s3cret"}, "nkey_seed holds no NKey seed"),
        ({"nkey_seed": PUBLIC_KEY}, "nkey_seed holds no NKey seed"),
        ({"credentials": "/nowhere.creds"}, "credentials cannot be read: No such file"),
        ({"credentials": __file__}, "credentials is no .creds file"),
        ({"ca_file": "/nowhere.pem"}, "ca_file cannot be read: No such file"),
        ({"cert_file": __file__}, "cert_file or key_file cannot be read"),
        ({"key_file": __file__}, "key_file needs cert_file"),
        ({"request_timeout_s": 0}, "request_timeout_s must be positive"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_accepted(options: dict[str, Any], message: str) -> None:
    """Before anything is opened, and without repeating a secret."""
    given = {"servers": ["nats://host"], "stream": "EVENTS", **options}
    with pytest.raises(ConfigError, match=message) as refusal:
        registry.build("nats", "nats", given, "destinations.nats")
    assert "s3cret" not in str(refusal.value)
