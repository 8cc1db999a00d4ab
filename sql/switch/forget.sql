-- The change of mode is over.
-- Run by: whoever reads the outbox or the slot. Locks: none. Safe to repeat.
delete from wal_tracker.switch
