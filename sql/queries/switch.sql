-- The change of mode that is under way, if there is one.
-- Run by: whoever reads the outbox or the slot. Locks: none. Safe to repeat.
select to_mode, slot, xid::text, lsn::text, snapshot::text
  from wal_tracker.switch
