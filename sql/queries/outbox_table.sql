-- Whether there is an outbox.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select to_regclass('wal_tracker.outbox') is not null
