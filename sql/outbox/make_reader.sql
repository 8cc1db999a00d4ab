-- From where on the outbox is read: from now. What is visible in this snapshot was not captured.
-- Run by: the schema's owner, in the transaction that makes the triggers and before them. Locks: none. Safe to repeat
-- only where nothing captured is to be delivered.
insert into wal_tracker.reader (system_identifier, snapshot, position)
select system_identifier::text, pg_current_snapshot(), pg_current_wal_insert_lsn()
  from pg_control_system()
    on conflict (is_one) do update
   set system_identifier = excluded.system_identifier,
       snapshot = excluded.snapshot,
       position = excluded.position,
       holder = null,
       lease_until = null,
       turned_at = null
