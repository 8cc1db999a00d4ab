-- The last number a tracked table was given.
-- Run by: the role that sets up. Locks: none. Safe to repeat.
select case when is_called then last_value else 0 end::integer from wal_tracker.tracked_id_seq
