-- wal_tracker.set_context(jsonb): who and why, attached to the changes that follow in the transaction.
-- Run by: the schema's owner. Locks: none. Safe to repeat.
-- By WAL as a message, for the capture functions of trigger mode as a setting of the transaction: both, in either mode.
-- Runs with the caller's rights and a fixed search_path: nothing of the caller's can stand in for what it calls.
create or replace function wal_tracker.set_context(context jsonb)
returns void
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $function$
    select pg_catalog.pg_logical_emit_message(true, 'wal_tracker.context', context::pg_catalog.text);
    select pg_catalog.set_config('wal_tracker.context', context::pg_catalog.text, true);
$function$
