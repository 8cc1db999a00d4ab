-- Remove the outbox, with everything in it that was not delivered.
-- Run by: the schema's owner, once no trigger writes to it. Locks: the outbox; the application's tables are not touched.
-- Safe to repeat.
drop table if exists wal_tracker.outbox_0, wal_tracker.outbox_1, wal_tracker.outbox, wal_tracker.tracked, wal_tracker.claim,
    wal_tracker.reader, wal_tracker.capture_failure, wal_tracker.switch;
drop sequence if exists wal_tracker.signal
