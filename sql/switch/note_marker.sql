-- Note where the transaction that divides the modes ends in the WAL.
-- Run by: whoever reads the slot, before it lets any position pass that place. Locks: none. Safe to repeat.
update wal_tracker.switch set lsn = %(lsn)s
