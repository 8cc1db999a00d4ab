-- The schema our functions live in.
-- Run by: a role with CREATE on the database. Locks: none. Safe to repeat.
create schema if not exists wal_tracker
