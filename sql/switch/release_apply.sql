-- Undo hold_apply.sql.
-- Run by: `wal_tracker apply`. Locks: none. Not repeatable: a lock that is not held is a warning.
select pg_advisory_unlock(6072519841537074)
