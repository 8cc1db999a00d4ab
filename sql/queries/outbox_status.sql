-- How far reading of the outbox is: what waits, who reads, what it takes; no row before `apply`.
-- Run by: the role of source.dsn, with select on the tables of wal_tracker. Locks: none. Safe to repeat. Reads the whole
-- outbox.
with reader as materialized (
    select snapshot, position, holder, lease_until from wal_tracker.reader
), waiting as materialized (
    select xid, count(*) as rows, min(at) as at
      from wal_tracker.outbox
     where not pg_visible_in_snapshot(xid, (select snapshot from reader))
        or xid in (select xid from wal_tracker.claim)
     group by xid
)
select reader.position::text,
       reader.holder,
       extract(epoch from reader.lease_until - clock_timestamp())::float8,
       (select count(*) from waiting),
       (select coalesce(sum(rows), 0)::bigint from waiting),
       (select extract(epoch from clock_timestamp() - min(at))::float8 from waiting),
       (select count(*) from wal_tracker.capture_failure),
       pg_total_relation_size('wal_tracker.outbox_0'),
       pg_total_relation_size('wal_tracker.outbox_1'),
       pg_total_relation_size('wal_tracker.claim'),
       (select to_mode from wal_tracker.switch)
  from reader
