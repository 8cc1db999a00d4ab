-- Give the outbox to the role the capture functions run as.
-- Run by: a superuser, or a member of both roles. Locks: the tables, for a moment, in the transaction that makes them.
-- Safe to repeat.
alter sequence wal_tracker.signal owner to {owner};
alter table wal_tracker.outbox owner to {owner};
alter table wal_tracker.outbox_0 owner to {owner};
alter table wal_tracker.outbox_1 owner to {owner};
alter table wal_tracker.tracked owner to {owner};
alter table wal_tracker.claim owner to {owner};
alter table wal_tracker.reader owner to {owner};
alter table wal_tracker.capture_failure owner to {owner};
alter table wal_tracker.switch owner to {owner};
