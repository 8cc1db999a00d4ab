-- The server whose transaction ids the outbox holds; and whether it can be the very outbox that reader was made for.
-- Run by: the role that sets up. Locks: none. Safe to repeat.
-- After a restore the table has another object identifier; or, should that be the same by chance, the server has not
-- yet given out the transaction ids.
select system_identifier,
       coalesce(
           outbox = to_regclass('wal_tracker.outbox')
           and pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot()),
           false
       )
  from wal_tracker.reader
