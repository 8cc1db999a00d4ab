-- Store which transaction divides WAL and outbox: this one.
-- Run by: the schema's owner. Locks: none. Not repeatable: a change of mode that is under way is an error.
insert into wal_tracker.switch (to_mode, slot, xid)
values ('trigger', %(slot)s, pg_current_xact_id())
