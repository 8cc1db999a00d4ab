-- Forget a table that is tracked no longer, once nothing captured of it is left to deliver.
-- Run by: the schema's owner. Locks: none. Safe to repeat.
delete from wal_tracker.tracked where id = {id} and not exists (select from wal_tracker.outbox where relation = {id})
