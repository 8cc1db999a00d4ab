-- Let one `wal_tracker apply` look and change at a time.
-- Run by: `wal_tracker apply`. Locks: an advisory lock of ours, until the transaction ends; held by it and not by the
-- session, so that poolers do not matter. Safe to repeat.
select pg_advisory_xact_lock(6072519841537074)
