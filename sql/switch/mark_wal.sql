-- Mark the transaction that makes or removes the triggers in the WAL: what commits before it comes by the old side, what
-- commits after it by the new one.
-- Run by: the schema's owner. Locks: none. Safe to repeat.
select pg_logical_emit_message(true, 'wal_tracker.switch', '')
