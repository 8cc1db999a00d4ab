-- From where on the outbox is read: from now. What is visible in this snapshot was not captured.
-- Run by: the schema's owner, in the transaction that makes the triggers and before them. Locks: none. Safe to repeat
-- only where nothing captured is to be delivered.
-- A dump of definitions alone brings the sequence without its value.
select setval('wal_tracker.signal', 0) where pg_sequence_last_value('wal_tracker.signal') is null;
insert into wal_tracker.reader (system_identifier, outbox, snapshot, position)
select system_identifier::text, 'wal_tracker.outbox'::regclass, pg_current_snapshot(), pg_current_wal_insert_lsn()
  from pg_control_system()
    on conflict (is_one) do update
   set system_identifier = excluded.system_identifier,
       outbox = excluded.outbox,
       snapshot = excluded.snapshot,
       position = excluded.position,
       holder = null,
       lease_until = null
