-- Forget capture failures that are on record elsewhere.
-- Run by: the process that holds the lease. Locks: none. Safe to repeat.
delete from wal_tracker.capture_failure where id = any (%(ids)s::uuid[])
