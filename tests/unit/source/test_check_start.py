"""Where reading begins, decided by a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wal_tracker.errors import SlotLost, SlotNotFound, SourceError, SourceRefused, SourceUnavailable, WrongServer
from wal_tracker.lsn import LSN
from wal_tracker.source.slot import ServerIdentity, SlotStatus, StoredPosition, check_start

SERVER = ServerIdentity("77", 2, LSN(1000), "shop", in_recovery=False)
STANDBY = replace(SERVER, in_recovery=True)
STORED = StoredPosition(LSN(500), "77", 2, "shop")
SLOT = SlotStatus(
    name="s",
    plugin="pgoutput",
    database="shop",
    temporary=False,
    active_pid=None,
    restart_lsn=LSN(300),
    confirmed_flush_lsn=LSN(400),
    current_lsn=LSN(1000),
    wal_status="reserved",
    safe_wal_size_bytes=None,
)


def test_the_first_start_begins_where_the_slot_is() -> None:
    """Without a position of our own the slot's holds."""
    start = check_start(None, SLOT, SERVER, slot="s", plugin="pgoutput")
    assert (start.lsn, start.gap) == (LSN(400), None)


def test_a_slot_behind_us_is_skipped_over() -> None:
    """confirmed_flush_lsn falls back when the server crashes: our own position holds."""
    start = check_start(STORED, SLOT, SERVER, slot="s", plugin="pgoutput")
    assert (start.lsn, start.gap) == (LSN(500), None)


def test_a_slot_where_we_are_is_no_gap() -> None:
    """The ordinary case."""
    status = replace(SLOT, confirmed_flush_lsn=LSN(500))
    assert check_start(STORED, status, SERVER, slot="s", plugin="pgoutput").gap is None


def test_a_slot_ahead_of_us_is_a_gap() -> None:
    """Somebody advanced or recreated it: what lies between is reported and never silently skipped."""
    start = check_start(STORED, replace(SLOT, confirmed_flush_lsn=LSN(600)), SERVER, slot="s", plugin="pgoutput")
    assert start.lsn == LSN(600)
    assert start.gap is not None
    assert (start.gap.from_lsn, start.gap.to_lsn, start.gap.reason) == (LSN(500), LSN(600), "slot_ahead")


@pytest.mark.parametrize(
    ("stored", "status", "server", "error"),
    [
        # The lowest position still exists there; a destination that is further would take new commits for old ones.
        (replace(STORED, furthest=LSN(1001)), SLOT, SERVER, WrongServer),
        (replace(STORED, furthest=LSN(1001)), SLOT, STANDBY, SourceUnavailable),
        (STORED, None, SERVER, SlotNotFound),
        (STORED, replace(SLOT, wal_status="lost"), SERVER, SlotLost),
        (STORED, replace(SLOT, invalidation_reason="idle_timeout"), SERVER, SlotLost),
        (STORED, replace(SLOT, conflicting=True), SERVER, SlotLost),
        (STORED, replace(SLOT, plugin="wal2json"), SERVER, SourceRefused),
        (STORED, replace(SLOT, plugin=None, database=None), SERVER, SourceRefused),
        (STORED, replace(SLOT, database="other"), SERVER, SourceRefused),
        (STORED, replace(SLOT, synced=True), STANDBY, SourceRefused),
        (replace(STORED, system_identifier="78"), SLOT, SERVER, WrongServer),
        (replace(STORED, database="other"), SLOT, SERVER, WrongServer),
        (replace(STORED, lsn=LSN(1001)), SLOT, SERVER, WrongServer),
        (replace(STORED, timeline=3), SLOT, SERVER, WrongServer),
        # A standby that has just restarted replays what we have read already.
        (replace(STORED, lsn=LSN(1001)), SLOT, STANDBY, SourceUnavailable),
    ],
)
def test_what_must_not_begin_does_not(
    stored: StoredPosition, status: SlotStatus | None, server: ServerIdentity, error: type[SourceError]
) -> None:
    """Each of these would lose or repeat changes, or read another server's."""
    with pytest.raises(error):
        check_start(stored, status, server, slot="s", plugin="pgoutput")


def test_the_wrong_server_is_said_before_its_missing_slot() -> None:
    """On another server there is no slot either; making one there would be the wrong advice."""
    with pytest.raises(WrongServer):
        check_start(replace(STORED, system_identifier="78"), None, SERVER, slot="s", plugin="pgoutput")


def test_a_promotion_is_no_hindrance() -> None:
    """The same cluster on a later timeline goes on."""
    server = replace(SERVER, timeline=3)
    assert check_start(STORED, SLOT, server, slot="s", plugin="pgoutput").lsn == LSN(500)


def test_distances_are_bytes_and_never_negative() -> None:
    """The WAL behind, and the WAL kept."""
    assert (SLOT.lag_bytes, SLOT.retained_bytes) == (600, 700)
    assert replace(SLOT, current_lsn=LSN(0)).lag_bytes == 0
    assert replace(SLOT, confirmed_flush_lsn=None, restart_lsn=None).retained_bytes is None
