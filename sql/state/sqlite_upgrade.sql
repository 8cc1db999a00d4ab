-- The state store in SQLite, from version 1 to 2: fewer columns were there.
-- Run by: wal_tracker, when it opens a file of version 1, statement by statement in one transaction. Locks: the file, for that
-- long. Not to be repeated: the version tells.
alter table position add column spool text;
alter table dead_letter add column answer text;
alter table gap add column events integer;
update schema_version set version = 2;
