-- A transaction too large to be read at once, in parts: where in the outbox tables and between which positions each is,
-- and the time of the last statement in it.
-- Run by: the role of source.dsn. Locks: none. Safe to repeat. Sorts one position for each of its rows, on disk.
select min(lsn)::text,
       max(lsn)::text,
       (min(tid) filter (where turn = 0))::text,
       (max(tid) filter (where turn = 0))::text,
       (min(tid) filter (where turn = 1))::text,
       (max(tid) filter (where turn = 1))::text,
       count(*),
       (extract(epoch from max(at)) * 1000000)::bigint
  from (
      select lsn,
             tid,
             turn,
             at,
             (row_number() over (order by lsn) - 1) / %(most_rows)s as row_part,
             (sum(bytes) over (order by lsn rows unbounded preceding))::bigint / %(most_bytes)s as byte_part
        from (
            select lsn,
                   ctid as tid,
                   0 as turn,
                   at,
                   coalesce(pg_column_size(old) * case when pg_column_compression(old) is null then 1 else 16::bigint end, 0)
                   + coalesce(pg_column_size(new) * case when pg_column_compression(new) is null then 1 else 16::bigint end, 0)
                   as bytes
              from wal_tracker.outbox_0
             where ctid between %(first_0)s::tid and %(last_0)s::tid
               and xid = %(xid)s::xid8
             union all
            select lsn,
                   ctid,
                   1,
                   at,
                   coalesce(pg_column_size(old) * case when pg_column_compression(old) is null then 1 else 16::bigint end, 0)
                   + coalesce(pg_column_size(new) * case when pg_column_compression(new) is null then 1 else 16::bigint end, 0)
              from wal_tracker.outbox_1
             where ctid between %(first_1)s::tid and %(last_1)s::tid
               and xid = %(xid)s::xid8
        ) as captured
  ) as cut
 group by row_part, byte_part
 order by min(lsn)
