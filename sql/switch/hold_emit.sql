-- Wait for every transaction that has called wal_tracker.emit, and let no other begin to.
-- Run by: the schema's owner, in the transaction that divides the modes. Locks: wal_tracker.emit until it ends.
-- Safe to repeat.
select pg_advisory_xact_lock(6072519841537073)
