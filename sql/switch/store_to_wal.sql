-- Store which transaction divides outbox and WAL: this one. Everybody who writes to the outbox has been waited for, so
-- what is visible now comes by the outbox; events of wal_tracker.emit that follow it are written there, too, and come by
-- WAL.
-- Run by: the schema's owner. Locks: none. Not repeatable: a change of mode that is under way is an error.
insert into wal_tracker.switch (to_mode, slot, xid, snapshot)
values ('wal', %(slot)s, pg_current_xact_id(), pg_current_snapshot())
