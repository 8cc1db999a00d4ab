-- wal_tracker.emit(jsonb): an event without a table, committed or rolled back with everything else.
-- Run by: the schema's owner. Locks: none. Safe to repeat.
-- Runs with the caller's rights and a fixed search_path: nothing of the caller's can stand in for what it calls.
create or replace function wal_tracker.emit(event jsonb)
returns void
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $function$
    select pg_catalog.pg_logical_emit_message(true, 'wal_tracker.event', event::pg_catalog.text);
$function$
