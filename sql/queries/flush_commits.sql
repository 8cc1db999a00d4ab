-- Have everything that has committed by now written to disk, commits under synchronous_commit = off included:
-- the commit of a transaction that did nothing but take an id is flushed with all WAL before it.
-- Run by: anybody, on a primary (a standby gives out no ids). Locks: none. Safe to repeat.
begin;
set local synchronous_commit = local;
select pg_current_xact_id();
commit;
