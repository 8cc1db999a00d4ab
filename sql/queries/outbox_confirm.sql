-- Forget the claims of transactions that are durable everywhere, and renew the lease; no row: somebody else holds it.
-- Run by: the process that holds the lease. Locks: the reader's row, the claims. Safe to repeat.
-- `after` is what was confirmed before: claims removed earlier, which vacuum may be kept from, are not passed again.
with held as (
    update wal_tracker.reader
       set lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
     where holder = %(holder)s
    returning is_one
), done as (
    delete from wal_tracker.claim
     where position > %(after)s::pg_lsn
       and position <= %(upto)s::pg_lsn
       and exists (select from held)
)
select is_one from held
