-- See what is in our schema.
-- Run by: the schema's owner. Locks: none. Safe to repeat.
grant usage on schema wal_tracker to {role}
