-- Our schema to the role its functions run as.
-- Run by: a superuser. Locks: none. Safe to repeat.
alter schema wal_tracker owner to {owner}
