"""
The whole error tree.

::

    WalTrackerError
    ├── ConfigError                     exit 2
    │   └── RuleError
    ├── PluginError                     exit 2
    ├── PreflightFailed                 exit 3
    ├── SourceError                     exit 1
    │   ├── SourceUnavailable           retryable
    │   ├── SlotInUse                   retryable
    │   │   └── OutboxInUse
    │   ├── SlotNotFound                exit 3
    │   ├── PublicationNotFound         exit 3
    │   ├── SlotLost
    │   ├── WrongServer
    │   └── SourceRefused
    ├── DecodeError
    │   ├── TruncatedMessage
    │   ├── UnknownRelation
    │   └── UnsupportedValue
    ├── RuleEvaluationError             dead letter, never stops the stream
    ├── DestinationError
    │   ├── DestinationUnavailable      retryable
    │   └── DestinationRefusedUs
    ├── StateError                      exit 1
    │   └── DeadLettersFull             waited for; nothing is lost
    ├── StreamFull                      a program takes and does not confirm
    └── CheckpointRegression            our bug; stop

Every class says by itself whether trying again can help (``retryable``), what a person should do
(``remedy``) and with which code the command line leaves (``exit_code``). Constructors take data
and write the sentence: what happened, where, then the remedy. Vendor exceptions stop at the file
that imports the vendor and are kept as ``__cause__``.
"""

from __future__ import annotations

from typing import ClassVar

from wal_tracker.lsn import LSN


class WalTrackerError(Exception):
    """Base of every error we raise on purpose."""

    retryable: ClassVar[bool] = False
    remedy: ClassVar[str] = ""
    exit_code: ClassVar[int] = 1


class ConfigError(WalTrackerError):
    """The configuration cannot be used; names the place in the file and what is accepted."""

    exit_code = 2

    def __init__(self, message: str, *, path: str = "", file: str = "", line: int = 0, column: int = 0) -> None:
        """
        Args:
            message: What is wrong and what is accepted, without the place.
            path: Dotted path inside the file, such as ``destinations.posthog.apiKey``.
            file: The file as the person named it.
            line: 1-based; 0 where unknown.
            column: 1-based; 0 where unknown.
        """
        place = file
        if line:
            place += f":{line}:{column}" if place else f"line {line}, column {column}"
        where = ": ".join(part for part in (place, path) if part)
        super().__init__(f"{where}: {message}" if where else message)
        self.message, self.path, self.file, self.line, self.column = message, path, file, line, column


class RuleError(ConfigError):
    """A rule's expression does not compile; the message carries a caret under the place."""


class PluginError(WalTrackerError):
    """A destination is unknown, broken, or lacks the library it needs."""

    exit_code = 2


class PreflightFailed(WalTrackerError):
    """The database is not ready for this configuration; `findings` says why, one line each."""

    exit_code = 3

    def __init__(self, findings: list[str], *, remedy: str = "") -> None:
        lines = [f"  - {finding}" for finding in findings]
        super().__init__("\n".join(["the database is not ready:", *lines, *([remedy] if remedy else [])]))
        self.findings = findings


class SourceError(WalTrackerError):
    """The server said something that trying again will not mend."""


class SourceUnavailable(SourceError):
    """The server cannot be reached, went away, or is starting up."""

    retryable = True


class SlotInUse(SourceError):
    """Another process reads the slot (SQLSTATE 55006)."""

    retryable = True

    def __init__(self, *, slot: str, detail: str) -> None:
        super().__init__(f"replication slot {slot!r} is in use: {detail}; waiting for it")
        self.slot = slot


class OutboxInUse(SlotInUse):
    """Another process reads the outbox; it is ours once that one has let go, or not been heard of for a while."""

    def __init__(self, *, holder: str) -> None:
        SourceError.__init__(self, f"the outbox is read by {holder}; waiting for it")
        self.holder = holder


class SlotNotFound(SourceError):
    """The configured replication slot does not exist."""

    exit_code = 3

    def __init__(self, *, slot: str) -> None:
        super().__init__(
            f"replication slot {slot!r} does not exist; `wal_tracker apply` (or `wal_tracker run --apply`) makes it"
        )
        self.slot = slot


class PublicationNotFound(SourceError):
    """The configured publication does not exist, or was dropped under the slot."""

    exit_code = 3

    def __init__(self, *, publication: str, detail: str = "") -> None:
        super().__init__(
            f"publication {publication!r} does not exist{': ' + detail if detail else ''}; "
            "`wal_tracker apply` makes it. A publication dropped while its slot holds unread changes poisons the "
            "slot up to PostgreSQL 17: if it stays so after `apply`, a new slot is needed"
        )
        self.publication = publication


class SlotLost(SourceError):
    """PostgreSQL has removed WAL the slot still needed: changes are gone for this consumer."""

    def __init__(self, *, slot: str, reason: str, confirmed: LSN | None = None) -> None:
        since = f" after {confirmed}" if confirmed is not None else ""
        super().__init__(
            f"SLOT_LOST: replication slot {slot!r} can no longer be read ({reason}); changes committed{since} will "
            "not come through it. The gap is recorded (`wal_tracker status`). To go on: "
            "`wal_tracker drop --slot-only --yes`, then `wal_tracker apply --yes`, and reload what was missed from the "
            "tables themselves. To keep it from happening again, raise max_slot_wal_keep_size, and watch "
            "`wal_tracker status`"
        )
        self.slot, self.reason, self.confirmed = slot, reason, confirmed


class WrongServer(SourceError):
    """The server is not the one this state belongs to, or has been taken back in time."""


class SourceRefused(SourceError):
    """The server refuses what we ask: privilege, setting, or output plugin; the message holds the remedy."""

    exit_code = 3


class DecodeError(WalTrackerError):
    """A message of the stream cannot be understood. A decoder that guesses corrupts the stream, so we stop."""

    def __init__(self, message: str, *, offset: int | None = None, lsn: LSN | None = None) -> None:
        at = f" at byte {offset}" if offset is not None else ""
        where = f" (message at {lsn})" if lsn is not None else ""
        super().__init__(f"{message}{at}{where}")
        self.message, self.offset, self.lsn = message, offset, lsn


class TruncatedMessage(DecodeError):
    """A message ends before what it promises."""


class UnknownRelation(DecodeError):
    """A row names a relation that the stream has not described."""


class UnsupportedValue(DecodeError):
    """A value's text does not fit the type the relation gives it."""


class RuleEvaluationError(WalTrackerError):
    """One rule could not be evaluated on one change: dead letter. Names rule and reason, never the row's values."""

    def __init__(self, *, rule: str, reason: str) -> None:
        super().__init__(f"rule {rule}: {reason}")
        self.rule, self.reason = rule, reason


class DestinationError(WalTrackerError):
    """A destination did not take what it was given."""

    def __init__(self, destination: str, message: str) -> None:
        super().__init__(f"destination {destination!r}: {message}")
        self.destination, self.message = destination, message


class DestinationUnavailable(DestinationError):
    """Nothing was accepted, or we cannot know: try all of it again with the same ids."""

    retryable = True

    def __init__(self, destination: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(destination, message)
        self.retry_after_s = retry_after_s


class DestinationRefusedUs(DestinationError):
    """Credentials, project or endpoint are wrong: stop, and dead-letter nothing."""


class StateError(WalTrackerError):
    """The state store cannot be read or written; nothing is confirmed without it."""


class DeadLettersFull(StateError):
    """
    No room for another dead letter, and the policy is to wait until there is.

    Who holds the letters keeps those after the first `stored`, and comes again.
    """

    retryable = True

    def __init__(self, *, max_letters: int, stored: int) -> None:
        super().__init__(
            f"the state store holds {max_letters} dead letters, all that dead_letters.max_letters allows, and at_bound "
            "is hold: nothing is lost, and what makes more of them waits. Look at them (`wal_tracker dlq list`), mend "
            "what makes them, and make room: `wal_tracker dlq export` and `dlq drop`, or a higher max_letters"
        )
        self.stored = stored


class StreamFull(WalTrackerError):
    """A program waits for more of a stream, and confirms nothing of what it has."""

    def __init__(self, *, unconfirmed: int, max_bytes: int) -> None:
        super().__init__(
            f"{unconfirmed} taken from the stream are not confirmed, and take what room delivery.max_queue_bytes "
            f"({max_bytes}) gives: call confirm() more often, also in the middle of a large transaction, or raise it"
        )


class CheckpointRegression(WalTrackerError):
    """A position went backwards: our own bug. Stop before anything is confirmed."""
