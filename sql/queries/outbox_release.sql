-- Nobody is to wake us any more; where everything is done, the next process may read the outbox at once.
-- Run by: the role of source.dsn. Locks: the reader's row. Safe to repeat. Nothing is done where another one holds it.
with held as (
    select is_one from wal_tracker.reader where holder = %(holder)s for update
), released as (
    update wal_tracker.reader
       set holder = null,
           lease_until = null
      from held
     where %(is_done)s
)
select setval('wal_tracker.signal', coalesce(pg_sequence_last_value('wal_tracker.signal'::regclass), 0) & 1) from held
