-- The next claimed transactions, in order; one row for each outbox table a transaction has rows in.
-- Run by: the role of source.dsn. Locks: none. Safe to repeat. By the primary key, however many wait.
select (position - '0/0'::pg_lsn)::bigint, turn::integer, xid::text, first_tid::text, last_tid::text, rows, bytes
  from wal_tracker.claim
 where position > %(after)s::pg_lsn
   and (%(visible_in)s::pg_snapshot is null or pg_visible_in_snapshot(xid, %(visible_in)s::pg_snapshot))
 order by position
 fetch first %(most)s rows with ties
