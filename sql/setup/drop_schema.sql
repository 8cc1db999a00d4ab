-- Remove our schema once it is empty.
-- Run by: the schema's owner. Locks: none. Not repeatable: no schema, or a full one, is an error.
drop schema wal_tracker
