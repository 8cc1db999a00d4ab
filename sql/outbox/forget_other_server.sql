-- After a restore: what another server captured. Its transaction ids mean nothing here, and its own reader delivers it.
-- Run by: the schema's owner. Locks: the outbox, against captures, until the transaction ends. Safe to repeat.
truncate wal_tracker.outbox_0, wal_tracker.outbox_1, wal_tracker.claim, wal_tracker.capture_failure, wal_tracker.switch
