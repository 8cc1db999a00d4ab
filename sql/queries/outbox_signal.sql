-- Tell the capture functions which outbox table to write to, and whether the reader wants to be woken.
-- Run by: the process that holds the lease. Locks: none. Safe to repeat.
select setval('wal_tracker.signal', %(signal)s) from wal_tracker.reader where holder = %(holder)s
