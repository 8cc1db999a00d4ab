-- The rows of claimed transactions, in the order in which they were captured.
-- Run by: the role of source.dsn. Locks: none. Safe to repeat. Reads the blocks between the first row and the last one.
select xid::text, relation, op, context, old, new, (extract(epoch from at) * 1000000)::bigint
  from (
      select lsn, xid, at, relation, op, context, old, new
        from wal_tracker.outbox_0
       where ctid between %(first_0)s::tid and %(last_0)s::tid
         and xid = any (%(xids)s::xid8[])
         and lsn between %(first_lsn)s::pg_lsn and %(last_lsn)s::pg_lsn
       union all
      select lsn, xid, at, relation, op, context, old, new
        from wal_tracker.outbox_1
       where ctid between %(first_1)s::tid and %(last_1)s::tid
         and xid = any (%(xids)s::xid8[])
         and lsn between %(first_lsn)s::pg_lsn and %(last_lsn)s::pg_lsn
  ) as captured
 order by lsn
