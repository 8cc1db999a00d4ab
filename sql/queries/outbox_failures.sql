-- Captures that failed while the application's write went through, counted by transaction, table and cause.
-- Run by: the role of source.dsn. Locks: none. Safe to repeat.
select array_agg(failure.id::text),
       failure.xid::text::bigint,
       coalesce(tracked.schema_name || '.' || tracked.table_name, 'table number ' || failure.relation),
       failure.op,
       failure.sqlstate,
       count(*),
       min(failure.at)::text
  from (select * from wal_tracker.capture_failure order by at, xid limit %(most)s) as failure
  left join wal_tracker.tracked on tracked.id = failure.relation
 group by failure.xid, failure.relation, failure.op, failure.sqlstate, tracked.schema_name, tracked.table_name
 order by min(failure.at), failure.xid
