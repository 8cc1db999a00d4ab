"""
wal_tracker inside another program: `changes` and `events` to iterate over, and `Pipeline` to run.

All three are the pipeline `wal_tracker run` is: the same slot or outbox, positions, reconnects and ids. A stream's
position lies in the state store under its name; a slot and a state store belong to one stream, or to one `run`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar, Union

import orjson

from wal_tracker import assemble
from wal_tracker.config.load import load
from wal_tracker.config.model import Config, DestinationConfig
from wal_tracker.delivery import HandOver
from wal_tracker.destinations.base import Destination, Limits, Mark, Receipt
from wal_tracker.errors import ConfigError, StreamFull
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable, Event, Op, RawChange
from wal_tracker.pipeline import Stats

Configured = Union[Config, str, "os.PathLike[str]", None]
"""A configuration, the path of one, or None: the file `wal_tracker run` would find."""

EventFunction = Callable[[Sequence[Event]], Union[Receipt, None]]
"""
A destination as a function: it gets a batch, oldest first, and returns when it is durable.

None means all of it; a `Receipt` says what is to come again or is refused. It may raise `DestinationUnavailable` (the
same batch comes again, after a while) and what else `Destination.deliver` may. Anything else ends the pipeline, nothing
of the batch is confirmed, and `Pipeline.run` raises it.
"""

# Who waits for more is woken by what comes; so often it looks whether it waits for its own confirmation.
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """
    One row's insert, update or delete, or one table's truncate.

    Values are as destinations get them: numeric is `Decimal`, float8 `float`, timestamps are RFC 3339 text, bytea is
    base64, and json what `json.loads` makes of it (its text, where that is nested too deep for Python). A column that
    is unknown is not in the row; NULL is None.
    """

    id: str
    """The same for the same change, on every replay."""
    op: Op
    schema: str
    table: str
    key: Mapping[str, Any]
    """The columns of the replica identity; empty under REPLICA IDENTITY FULL."""
    old: Mapping[str, Any] | None
    """The row before, as far as the replica identity tells it."""
    new: Mapping[str, Any] | None
    """The row after."""
    unchanged: tuple[str, ...]
    """Columns of the new row that were not sent again (TOAST), and are unknown."""
    commit_lsn: LSN
    ordinal: int
    """Zero-based place among its table's changes in the transaction."""
    xid: int
    commit_time: datetime
    """Aware; in trigger mode the statement's."""
    context: Mapping[str, Any]
    """The transaction's, by `wal_tracker.set_context`."""

    @classmethod
    def of(cls, change: RawChange) -> RowChange:
        """A change as destinations get it."""
        document = {name: _plain(value) for name, value in change.document.items()}
        return cls(
            id=change.id,
            op=document["op"],
            schema=document["schema"],
            table=document["table"],
            key=document["key"],
            old=document["old"],
            new=document["new"],
            unchanged=tuple(document["unchanged"]),
            commit_lsn=LSN.parse(document["commit_lsn"]),
            ordinal=document["ordinal"],
            xid=document["xid"],
            commit_time=datetime.fromisoformat(document["commit_time"].replace("Z", "+00:00")),
            context=document["context"],
        )


T = TypeVar("T", RowChange, Event)


class Stream(Generic[T]):
    """
    An iterator over what is committed, in commit order; what is not confirmed comes again with the next stream.

    A context manager; used without, it begins with the first item, and `close` ends it. Nobody needs to hurry: while
    more is unconfirmed than ``delivery.max_queue_bytes`` (as bytes on the wire), nothing is read and no connection is
    held, and the WAL waits on the server.

    One thread iterates; `confirm` and `close` may be called from any.
    """

    def __init__(
        self,
        config: Config,
        name: str,
        view: Callable[[Deliverable], T],
        *,
        evaluate: bool,
        until_caught_up: bool,
        timeout_s: float | None,
    ) -> None:
        """
        Args:
            config: With one destination, which is ours.
            name: Of that destination, as the state store knows it.
            view: Makes of what a destination gets what the program gets.
            evaluate: Run the rules.
            until_caught_up: See `changes`.
            timeout_s: See `changes`.
        """
        self._view: Callable[[Deliverable], T] = view
        self._timeout_s, self._stall_s = timeout_s, config.delivery.stall_timeout_s
        self._hand = HandOver(name, max_held_bytes=config.delivery.max_queue_bytes)
        self._run = assemble.Run(
            config,
            destinations={name: self._hand},
            until_caught_up=until_caught_up,
            evaluate=evaluate,
            own_process=False,
        )
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._is_over = False
        self._is_closed = False
        self._here: deque[Deliverable] = deque()
        self._order: deque[str] = deque()
        self._unconfirmed: dict[str, int] = {}
        self._given = self._confirmed = 0

    def __enter__(self) -> Stream[T]:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """
        The next one; waits for it.

        Raises:
            StopIteration: `timeout_s` is over (it may be called again), everything is here (`until_caught_up`), or the
                stream is closed.
            StreamFull: What is unconfirmed leaves no room; after a confirmation it may be called again.
            WalTrackerError: Something only a person can mend.
        """
        self._open()
        if not self._here:
            self._here.extend(self._wait())
        if not self._here:
            raise StopIteration
        item = self._here.popleft()
        with self._hand.changed:
            self._order.append(item.id)
            self._given += 1
            self._unconfirmed[item.id] = self._given
        return self._view(item)

    def confirm(self, item: T) -> None:
        """
        Be done with this one and everything before it, whatever became of that.

        The position then is the end of the last transaction all of which is confirmed. It is stored, and PostgreSQL is
        told, within ``delivery.checkpoint_interval_s``, and at the latest by `close`; a crash before that brings again
        what came after the position stored last. Confirming something a second time does nothing.
        """
        with self._hand.changed:
            number = self._unconfirmed.get(item.id)
            if number is None:
                return
            count = number - self._confirmed
            for _ in range(count):
                identity = self._order.popleft()
                if self._unconfirmed[identity] <= number:
                    del self._unconfirmed[identity]
            self._confirmed = number
            if not self._is_closed:
                self._hand.confirm(count)

    def close(self) -> None:
        """
        Store what is confirmed, and let go of slot and connection; what is not confirmed comes again.

        Raises:
            WalTrackerError: The last position could not be stored.
        """
        with self._hand.changed:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed or self._thread is None:
            return
        self._hand.leave()
        self._run.stop()
        self._thread.join()
        self._run.__exit__(None, None, None)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _open(self) -> None:
        if self._thread is not None or self._is_closed:
            return
        self._run.__enter__()
        # A daemon: a stream nobody closes must not keep the program; what it had is confirmed, or comes again.
        self._thread = threading.Thread(target=self._work, name=f"stream-{self._hand.name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._run.run()
        except BaseException as error:  # noqa: BLE001 - kept, and raised where the program iterates
            self._failure = error
        finally:
            with self._hand.changed:
                self._is_over = True
                self._hand.changed.notify_all()

    def _wait(self) -> list[Deliverable]:
        """What comes next; nothing where there is to be no more, or not in time."""
        hand = self._hand
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        with hand.changed:
            while not self._is_closed:
                if taken := hand.take():
                    return taken
                if self._is_over:
                    break
                end, now = self._run.end, time.monotonic()
                if (end is not None and hand.told >= end) or (deadline is not None and now >= deadline):
                    return []
                starved = hand.starved_since()
                if starved is not None and now - starved >= self._stall_s:
                    raise StreamFull(unconfirmed=len(self._order), max_bytes=hand.max_held_bytes)
                hand.changed.wait(_LOOK_S if deadline is None else min(_LOOK_S, deadline - now))
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return []


def changes(
    config: Configured = None, *, name: str = "python", until_caught_up: bool = False, timeout_s: float | None = None
) -> Stream[RowChange]:
    """
    The changes of the tracked tables, as they are committed; the rules only name the tables.

    Args:
        config: The configuration; its destinations are not used.
        name: Under which the state store keeps how far this program is; a new one begins where the slot stands.
        until_caught_up: End after what is committed by the time it begins.
        timeout_s: End the iteration when nothing has come for so long; iterating again goes on. None: wait.

    Raises:
        ConfigError: There is no such configuration, or it cannot be used.
    """
    loaded = _load(config)
    entry = _entry(name, loaded)
    loaded = replace(loaded, destinations=(), raw_destinations=(entry,))
    return Stream(
        loaded, assemble.RAW + name, _change, evaluate=False, until_caught_up=until_caught_up, timeout_s=timeout_s
    )


def events(
    config: Configured = None, *, name: str = "python", until_caught_up: bool = False, timeout_s: float | None = None
) -> Stream[Event]:
    """
    The events the rules make, all of them, wherever a rule would send them; what a rule fails on is a dead letter.

    Args:
        config: As of `changes`, and so are the others.
        name: See there.
        until_caught_up: See there.
        timeout_s: See there.

    Raises:
        ConfigError: There is no such configuration, or it cannot be used.
    """
    loaded = _load(config)
    loaded = replace(
        loaded,
        rules=tuple(replace(rule, destinations=None) for rule in loaded.rules),
        destinations=(_entry(name, loaded),),
        raw_destinations=(),
    )
    return Stream(loaded, name, _event, evaluate=True, until_caught_up=until_caught_up, timeout_s=timeout_s)


class Pipeline:
    """The main job in this process: ``with Pipeline("wal_tracker.yaml", destinations={"mine": function}) as job``."""

    def __init__(
        self,
        config: Configured = None,
        *,
        destinations: Mapping[str, EventFunction | Destination] | None = None,
        apply_first: bool = False,
        until_caught_up: bool = False,
    ) -> None:
        """
        Args:
            config: The configuration.
            destinations: Functions, or destinations that are made already, by name, beside those of the configuration.
                Where that has an entry of the name, the entry's `filter`, `when`, `properties` and `delivery` hold.
            apply_first: Make what the mode needs in the database where it is missing.
            until_caught_up: `run` returns when everything committed by its beginning is delivered.

        Raises:
            ConfigError: There is no such configuration, or it cannot be used.
        """
        loaded = _load(config)
        given = {
            name: one if isinstance(one, Destination) else _Function(name, one)
            for name, one in (destinations or {}).items()
        }
        there = {entry.name for entry in loaded.destinations}
        new = tuple(_entry(name, loaded) for name in given if name not in there)
        loaded = replace(loaded, destinations=(*loaded.destinations, *new))
        self._run = assemble.Run(
            loaded,
            apply_first=apply_first,
            until_caught_up=until_caught_up,
            destinations=given,
            own_process=False,
        )

    def __enter__(self) -> Pipeline:
        """
        Check the configuration against the database, and take the state store.

        Raises:
            WalTrackerError: Something is not as it has to be; says what, and the remedy.
        """
        self._run.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run.__exit__(kind, error, traceback)

    def run(self) -> None:
        """
        Read, evaluate and deliver until `stop`, or until caught up.

        Raises:
            WalTrackerError: Something only a person can mend; what is durable by then has been stored.
            Exception: What a function raised that says nothing of whether to try again.
        """
        self._run.run()

    def stop(self) -> None:
        """Ask `run` to deliver what is held and return. Safe from a signal handler and from any thread."""
        self._run.stop()

    @property
    def stats(self) -> Stats:
        """What went through since the start."""
        return self._run.stats


class _Function:
    """A function as a destination."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Has no options."""

    limits = Limits(linger_s=0.0)
    accepts_raw: ClassVar[bool] = False

    def __init__(self, name: str, function: EventFunction) -> None:
        self.name, self._function = name, function

    def open(self, mark: Mark | None) -> None:
        """There is nothing to open."""

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Call it."""
        receipt = self._function([event for event in batch if isinstance(event, Event)])
        return receipt if receipt is not None else Receipt()

    def close(self) -> None:
        """There is nothing to close."""


def _load(config: Configured) -> Config:
    if isinstance(config, Config):
        return config
    return load(None if config is None else Path(config), os.environ)


def _entry(name: str, config: Config) -> DestinationConfig:
    if not name:
        raise ConfigError("a stream's or destination's name must not be empty")
    return DestinationConfig(name=name, kind="python", delivery=config.delivery, path=f"destinations.{name}")


def _change(item: Deliverable) -> RowChange:
    assert isinstance(item, RawChange)
    return RowChange.of(item)


def _event(item: Deliverable) -> Event:
    assert isinstance(item, Event)
    return item


def _plain(value: Any) -> Any:
    """A value of a document, as Python has it."""
    if isinstance(value, orjson.Fragment):
        return _exact(orjson.dumps(value).decode())
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _exact(text: str) -> Any:
    """A numeric with its digits, or a json."""
    if text[0] in "-0123456789":
        return Decimal(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


__all__ = ["Configured", "EventFunction", "Pipeline", "RowChange", "Stream", "changes", "events"]
