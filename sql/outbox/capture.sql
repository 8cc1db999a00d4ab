-- One table's capture function: a changed row (or a TRUNCATE) into the outbox, in the transaction that changed it.
-- Run by: the schema's owner. Locks: none. Safe to repeat.
-- One function for each table, because that measured faster than a single one with arguments (benchmarks/README.md);
-- its number, {relation}, is wal_tracker.tracked.id. Whole rows, and not column by column: a column that is added,
-- renamed or dropped is captured as it is then. Runs with its owner's rights, which are those to our schema, and a
-- fixed search_path: nothing of the caller's can stand in for what it calls.
-- Who sleeps is woken once, by whoever finds him asleep first: notifications take their turn at commit, server-wide, and
-- a commit fails when their queue is full. Only where nobody prepares transactions (2PC), which fails after one.
create or replace function wal_tracker.{function}()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp{settings}
as $function$
declare
    signal bigint;
begin
    signal := pg_sequence_last_value('wal_tracker.signal'::regclass);
    loop
        if signal = 0 then
            insert into wal_tracker.outbox_0 values (
                pg_current_wal_insert_lsn(), pg_current_xact_id(), statement_timestamp(), {relation}, tg_op, session_user,
                current_setting('wal_tracker.context', true), {old}, {new}
            );
            return null;
        elsif signal = 1 then
            insert into wal_tracker.outbox_1 values (
                pg_current_wal_insert_lsn(), pg_current_xact_id(), statement_timestamp(), {relation}, tg_op, session_user,
                current_setting('wal_tracker.context', true), {old}, {new}
            );
            return null;
        end if;
        if signal > 1 and current_setting('max_prepared_transactions') = '0' then
            perform setval('wal_tracker.signal', pg_sequence_last_value('wal_tracker.signal') & 1);
            if pg_notification_queue_usage() < 0.5 then
                perform pg_notify('wal_tracker', '');
            end if;
        end if;
        -- After a restore it may have no value.
        signal := coalesce(signal & 1, 0);
    end loop;
{on_failure}end
$function$
