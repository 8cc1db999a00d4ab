"""BigQuery in both sections of a configuration, beside each other."""

from __future__ import annotations

from tests.support import items
from tests.support.fake_bigquery import CHANGES, EVENTS, FakeBigQuery
from tests.support.job import Job
from tests.support.postgres import Database


def test_events_and_changes_go_to_tables_that_are_made_for_them(database: Database) -> None:
    """Each with its own columns; a column that is NULL is null in the row, and a row that is not there is NULL."""
    database.sql(items.SCHEMA)
    database.sql("alter table items replica identity full")
    with FakeBigQuery() as events, FakeBigQuery(method="load") as changes:
        events.table = changes.table = None
        config = items.config(
            database,
            destinations={"bigquery": {**events.options, "create": True}},
            raw_db_event_destinations={
                "bigquery": {**changes.options, "create": True, "delivery": {"linger_s": 0}},
            },
        )
        with Job(config) as job:
            job.apply()
            database.sql("insert into items values (1, 1, 'made')")
            database.sql("update items set version = 2 where id = 1")
            database.sql("delete from items where id = 1")
            job.catch_up()

        for vendor, columns in ((events, EVENTS), (changes, CHANGES)):
            assert vendor.table is not None
            assert [field["name"] for field in vendor.table["schema"]["fields"]] == [name for name, *_ in columns]
        rows = list(events.stored.values())
        assert [(row["name"], row["properties"]["id"]) for row in rows] == [
            ("item_made", 1),
            ("item_changed", 1),
            ("item_gone", 1),
        ]
        made = {"id": 1, "version": 1, "note": "made", "big": None}
        changed = {**made, "version": 2}
        assert [
            (row["event_type"], row["row_table_name"], row.get("old_row"), row.get("new_row"))
            for row in changes.stored.values()
        ] == [
            ("insert", "items", None, made),
            ("update", "items", made, changed),
            ("delete", "items", changed, None),
        ]
