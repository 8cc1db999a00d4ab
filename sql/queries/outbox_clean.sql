-- Empty the outbox table that is not written to, once everything in it is durable everywhere.
-- Run by: the process that holds the lease. Locks: that table against everything, without waiting: a transaction that
-- has written to it and not ended keeps us away. Safe to repeat.
-- With the lock held nobody has a row in it that we cannot see (hence read committed, statement by statement); one that
-- comes after it is a row like any other.
set transaction isolation level read committed;
do $clean$
begin
    perform from wal_tracker.reader where holder = {holder} for update;
    if not found then
        return;
    end if;
    lock table wal_tracker.{table} in access exclusive mode nowait;
    if exists (select from wal_tracker.claim where turn = {turn}) then
        return;
    end if;
    if exists (
        select
          from wal_tracker.{table}
         where not pg_visible_in_snapshot(xid, (select snapshot from wal_tracker.reader))
    ) then
        return;
    end if;
    truncate wal_tracker.{table};
    -- Claims go one by one, and vacuum cannot always keep up; when there are none, there is a cheaper way.
    if pg_relation_size('wal_tracker.claim') > 8 * 1024 * 1024 and not exists (select from wal_tracker.claim) then
        -- Somebody may well be at it (vacuum, a dump): then not now, and what was done above stays done.
        begin
            lock table wal_tracker.claim in access exclusive mode nowait;
            if not exists (select from wal_tracker.claim) then
                truncate wal_tracker.claim;
            end if;
        exception when lock_not_available then
            null;
        end;
    end if;
end
$clean$;
select pg_relation_size('wal_tracker.{table}')
