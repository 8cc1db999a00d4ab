"""What `status` calls a problem, and what a note."""

from __future__ import annotations

import pytest

from wal_tracker.cli.status import SpoolStatus, Status
from wal_tracker.config.model import DeadLettersConfig
from wal_tracker.lsn import LSN
from wal_tracker.source.outbox import OutboxStatus


def status(spool: SpoolStatus) -> Status:
    """Of trigger mode, all well but for the spool."""
    outbox = OutboxStatus(
        position=LSN(1),
        holder=None,
        lease_s=1.0,
        waiting_transactions=0,
        waiting_rows=0,
        oldest_waiting_s=None,
        capture_failures=0,
        bytes={},
        switching_to=None,
        not_captured={},
    )
    return Status(
        mode="trigger",
        slot_name="wal_tracker",
        slot=None,
        outbox=outbox,
        server_error=None,
        running=True,
        positions={"webhook": LSN(1)},
        configured=["webhook"],
        spools={"webhook": spool},
        letters=[],
        letter_bound=DeadLettersConfig(),
        gaps=[],
    )


@pytest.mark.parametrize(
    ("size", "at_bound", "is_problem"), [(99, "hold", False), (100, "hold", True), (100, "shed", False)]
)
def test_a_full_spool_that_holds_everything_up_needs_a_person(size: int, at_bound: str, is_problem: bool) -> None:
    """WAL grows on the server for every destination then; one that is not full, or sheds, harms nobody else."""
    found = status(SpoolStatus(bytes=size, oldest=None, max_bytes=100, at_bound=at_bound))

    assert len(found.problems) == is_problem
    told = found.problems if is_problem else found.notes
    assert len([one for one in told if "webhook" in one]) == 1
