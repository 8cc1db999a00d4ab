"""That the main job takes the short cut it was made for (`wal_tracker.rules.direct`)."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.support.postgres import Database
from wal_tracker.assemble import Run
from wal_tracker.config.load import load
from wal_tracker.model import RowEvent
from wal_tracker.testing import MemoryDestination


def test_events_of_columns_alone_are_made_as_their_rows_are_decoded(database: Database, tmp_path: Path) -> None:
    """Whether a row took it shows in no event; so a run that does not would only be slow."""
    database.sql("create table items (id bigint primary key, name text)")
    path = tmp_path / "wal_tracker.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "source": {"dsn": database.dsn, "slot": "short_cut", "publication": "short_cut"},
                "state": f"sqlite:///{tmp_path}/state.db",
                "track": {"items.insert": {"event": "item_made", "properties": {"id": "new.id", "name": "new.name"}}},
                "destinations": {"stdout": {}},
            }
        )
    )
    config = load(path, {})
    with Run(config, apply_first=True, until_caught_up=True, destinations={"stdout": MemoryDestination()}) as job:
        job.run()
    database.sql("insert into items values (1, 'a'), (2, 'b')")
    memory = MemoryDestination()

    with Run(config, until_caught_up=True, destinations={"stdout": memory}) as job:
        job.run()

    events = list(memory.events.values())
    assert [event.properties for event in events] == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    assert {type(event) for event in events} == {RowEvent}
