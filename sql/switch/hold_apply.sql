-- Let one `wal_tracker apply` change the mode at a time: another one would take a slot that is being made for left over.
-- Run by: `wal_tracker apply`. Locks: the advisory lock of setup/one_at_a_time.sql, held by the session, because a slot
-- cannot be made in a transaction that writes. Undone by release_apply.sql, and by the session's end.
select pg_try_advisory_lock(6072519841537074)
