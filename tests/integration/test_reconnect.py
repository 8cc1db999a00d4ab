"""What a source holds to from one connection to the next."""

from __future__ import annotations

import pytest

from tests.support.postgres import Database, wait_until
from tests.support.replication import Consumer, confirmed, prepare, settings_for
from wal_tracker.errors import WrongServer
from wal_tracker.lsn import LSN


def test_what_an_earlier_connection_brought_may_be_confirmed_before_it_comes_again(database: Database) -> None:
    """Destinations go on delivering while a new stream is still far behind."""
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        database.sql("insert into t values (1, '')")
        consumer.read_transactions(1)
        consumer.source.connect(LSN(0))
        consumer.source.confirm(consumer.commits[0])
        wait_until(lambda: confirmed(database) == consumer.commits[0])


def test_a_slot_made_again_in_between_is_told(database: Database) -> None:
    """The stream begins beyond what was asked for, and `connect` says where."""
    name = prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        database.sql("insert into t values (1, '')")
        consumer.read_transactions(1)
        (end,) = consumer.commits
        assert consumer.source.connect(end) == end
        consumer.source.close()
        wait_until(lambda: not database.sql("select 1 from pg_replication_slots where slot_name = %s and active", name))
        database.sql("select pg_drop_replication_slot(%s)", name)
        database.sql("insert into t values (2, '')")
        database.create_slot(name)

        begins = consumer.source.connect(end)

        assert begins > end
        assert begins == confirmed(database)


def test_a_server_that_has_not_come_to_what_was_read_is_refused(database: Database) -> None:
    """Also where it has come to what is durable: new commits below what was read would be taken for old ones."""
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        # As a server before it was taken back would have sent it.
        consumer.source._received_lsn = LSN(2**62)
        with pytest.raises(WrongServer, match="we have read up to"):
            consumer.source.connect(LSN(0))
