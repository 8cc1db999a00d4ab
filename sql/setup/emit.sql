-- wal_tracker.emit(jsonb): an event without a table, committed or rolled back with everything else.
-- Run by: the schema's owner. Locks: none. Safe to repeat.
-- Goes by WAL, and where there is an outbox by that, too: of the two exactly one is read. The lock lets a change of
-- mode wait for transactions that have emitted; whether there is an outbox is seen after it, whatever the snapshot.
-- Runs with its owner's rights and a fixed search_path: nothing of the caller's can stand in for what it calls.
-- Who sleeps is woken once, by whoever finds him asleep first: notifications take their turn at commit, server-wide, and
-- a commit fails when their queue is full. Only where nobody prepares transactions (2PC), which fails after one.
create or replace function wal_tracker.emit(event jsonb)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    signal bigint;
begin
    perform pg_advisory_xact_lock_shared(6072519841537073);
    -- Having waited, this session may still remember that there is no outbox, or that there is one: opening a table,
    -- any table, brings in what others have changed. One hardly anybody has open already, or it would not.
    perform pg_relation_size('pg_catalog.pg_init_privs');
    perform pg_logical_emit_message(true, 'wal_tracker.event', event::text);
    if to_regclass('wal_tracker.outbox') is null then
        return;
    end if;
    signal := pg_sequence_last_value('wal_tracker.signal');
    if signal & 1 = 1 then
        insert into wal_tracker.outbox_1 values (
            pg_current_wal_insert_lsn(), pg_current_xact_id(), statement_timestamp(), 0, 'EVENT', session_user,
            current_setting('wal_tracker.context', true), null, event::json
        );
    else
        insert into wal_tracker.outbox_0 values (
            pg_current_wal_insert_lsn(), pg_current_xact_id(), statement_timestamp(), 0, 'EVENT', session_user,
            current_setting('wal_tracker.context', true), null, event::json
        );
    end if;
    if signal > 1 and current_setting('max_prepared_transactions') = '0' then
        perform setval('wal_tracker.signal', pg_sequence_last_value('wal_tracker.signal') & 1);
        if pg_notification_queue_usage() < 0.5 then
            perform pg_notify('wal_tracker', '');
        end if;
    end if;
end
$function$
