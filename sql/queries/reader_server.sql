-- The server whose transaction ids the outbox holds.
-- Run by: the role that sets up. Locks: none. Safe to repeat.
select system_identifier from wal_tracker.reader
