-- Let the application call the functions; nobody but us creates anything there.
-- Run by: the schema's owner. Locks: none. Safe to repeat.
grant usage on schema wal_tracker to public;
revoke create on schema wal_tracker from public
