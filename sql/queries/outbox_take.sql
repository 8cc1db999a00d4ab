-- Take the outbox for one process, for as long as the lease says; no row where another one holds it.
-- Run by: the role of source.dsn. Locks: wal_tracker.reader against claims, for as long as this takes. Safe to repeat.
-- Positions of transactions yet to be claimed lie above `beyond`, whatever became of the server in between; what lies
-- at `start` or below is durable everywhere. Whoever slept here before wants to be woken no more.
lock table wal_tracker.reader in share update exclusive mode;
with free as (
    select is_one
      from wal_tracker.reader
     where holder is null
        or holder = %(holder)s
        or lease_until is null
        or lease_until < clock_timestamp()
), taken as (
    update wal_tracker.reader
       set holder = %(holder)s,
           lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
           position = greatest(reader.position, %(beyond)s::pg_lsn)
      from free
    returning reader.position
), done as (
    delete from wal_tracker.claim
     where position <= %(start)s::pg_lsn
       and exists (select from taken)
)
select (position - '0/0'::pg_lsn)::bigint,
       setval('wal_tracker.signal', coalesce(pg_sequence_last_value('wal_tracker.signal'::regclass), 0) & 1)::integer
  from taken
