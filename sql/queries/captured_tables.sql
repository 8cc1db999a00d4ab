-- Of these table numbers, those the outbox holds rows of.
-- Run by: the role that sets up. Locks: none. Safe to repeat. Reads the whole outbox.
select distinct relation from wal_tracker.outbox where relation = any (%(ids)s)
