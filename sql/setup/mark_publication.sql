-- Note on the publication that it is ours, so that `wal_tracker drop` knows it.
-- Run by: the publication's owner. Locks: none. Safe to repeat.
comment on publication {publication} is {mark}
