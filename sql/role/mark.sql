-- Note on the role that it is ours, so that `wal_tracker create-role` may add to what it may do.
-- Run by: a role with CREATEROLE. Locks: none. Safe to repeat.
comment on role {role} is {mark}
