-- Read the outbox, note how far, and empty it: nothing else, and no table of the application.
-- Run by: the schema's owner. Locks: none. Safe to repeat, and again after the outbox was made anew.
grant select on wal_tracker.outbox, wal_tracker.tracked, wal_tracker.tracked_id_seq to {role};
grant select, truncate on wal_tracker.outbox_0, wal_tracker.outbox_1 to {role};
grant select, insert, update, delete, truncate on wal_tracker.claim to {role};
grant select, insert, update, delete on wal_tracker.reader to {role};
grant select, delete on wal_tracker.capture_failure to {role};
grant select, update, delete on wal_tracker.switch to {role};
grant select, update on wal_tracker.signal to {role}
