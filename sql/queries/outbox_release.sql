-- Let the next process read the outbox at once; until then nobody wants to be woken.
-- Run by: the role of source.dsn. Locks: the reader's row. Safe to repeat.
with released as (
    update wal_tracker.reader set holder = null, lease_until = null where holder = %(holder)s returning is_one
)
select setval('wal_tracker.signal', pg_sequence_last_value('wal_tracker.signal'::regclass) & 1) from released
