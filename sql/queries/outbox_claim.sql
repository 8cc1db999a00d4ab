-- Number the transactions that have committed since the last claim, in the order in which they are handed on.
-- Run by: the process that holds the lease. Locks: wal_tracker.reader against other claims and take-overs; with nothing
-- to claim nothing is written. Safe to repeat: what is claimed is no longer found. Reads both outbox tables whole, which
-- is why delivered rows are removed from them. No row: somebody else holds the lease.
-- The snapshot of the second statement is taken when the lock is held, whatever default_transaction_isolation says: it
-- is exact about what is committed, and sees a change of mode that waited for the lock or made us wait.
-- A commit that is not waited for (synchronous_commit = off) may be undone by a crash of the server: ours is flushed, and
-- with it every one it has seen, before anybody is told of them.
set transaction isolation level read committed;
select set_config('synchronous_commit', 'local', true) where current_setting('synchronous_commit') = 'off';
lock table wal_tracker.reader in share update exclusive mode;
with reader as materialized (
    select snapshot,
           pg_snapshot_xmin(snapshot) as xmin,
           greatest(position, pg_current_wal_insert_lsn()) as base,
           lease_until < clock_timestamp() + make_interval(secs => %(renew_below_s)s) as is_due
      from wal_tracker.reader
     where holder = %(holder)s
), bound as materialized (
    -- On the way to WAL mode only what is visible at the slot's beginning is ours.
    select coalesce(
               %(visible_in)s::pg_snapshot,
               (select snapshot from wal_tracker.switch where to_mode = 'wal')
           ) as snapshot
), fresh as materialized (
    select xid,
           0 as turn,
           min(ctid) as first_tid,
           max(ctid) as last_tid,
           count(*) as rows,
           -- On disk; what is compressed is taken to be sixteen times as much: text of one letter is ninety.
           sum(
               coalesce(pg_column_size(old) * case when pg_column_compression(old) is null then 1 else 16::bigint end, 0)
               + coalesce(pg_column_size(new) * case when pg_column_compression(new) is null then 1 else 16::bigint end, 0)
           ) as bytes,
           max(lsn) as lsn
      from wal_tracker.outbox_0
     where xid >= (select xmin from reader)
       and not pg_visible_in_snapshot(xid, (select snapshot from reader))
       and ((select snapshot from bound) is null or pg_visible_in_snapshot(xid, (select snapshot from bound)))
     group by xid
     union all
    select xid,
           1,
           min(ctid),
           max(ctid),
           count(*),
           sum(
               coalesce(pg_column_size(old) * case when pg_column_compression(old) is null then 1 else 16::bigint end, 0)
               + coalesce(pg_column_size(new) * case when pg_column_compression(new) is null then 1 else 16::bigint end, 0)
           ),
           max(lsn)
      from wal_tracker.outbox_1
     where xid >= (select xmin from reader)
       and not pg_visible_in_snapshot(xid, (select snapshot from reader))
       and ((select snapshot from bound) is null or pg_visible_in_snapshot(xid, (select snapshot from bound)))
     group by xid
), numbered as (
    select first_tid,
           last_tid,
           turn,
           xid,
           rows,
           bytes,
           (select base from reader) + (dense_rank() over (order by lsn, xid))::numeric as position
      from (select fresh.*, max(lsn) over (partition by xid) as last_lsn from fresh) as whole (
               xid, turn, first_tid, last_tid, rows, bytes, part_lsn, lsn
           )
), claimed as (
    insert into wal_tracker.claim (position, turn, xid, first_tid, last_tid, rows, bytes)
    select position, turn, xid, first_tid, last_tid, rows, bytes from numbered
    returning position
), highest as (
    select max(position) as position from claimed
), moved as (
    update wal_tracker.reader
       set snapshot = case
               when highest.position is null then reader.snapshot
               else coalesce((select snapshot from bound), pg_current_snapshot())
           end,
           position = coalesce(highest.position, reader.position),
           lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
      from highest
     where reader.holder = %(holder)s
       and (highest.position is not null or (select is_due from reader))
    returning reader.position
)
select (select (position - '0/0'::pg_lsn)::bigint from highest),
       exists (select from moved),
       coalesce(pg_sequence_last_value('wal_tracker.signal'::regclass), 0)::integer,
       pg_relation_size('wal_tracker.outbox_0'),
       pg_relation_size('wal_tracker.outbox_1'),
       exists (select from wal_tracker.capture_failure),
       exists (select from wal_tracker.switch where to_mode = 'wal')
  from reader
