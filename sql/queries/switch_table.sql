-- Whether a change of mode can be under way at all.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select to_regclass('wal_tracker.switch') is not null
