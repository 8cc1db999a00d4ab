-- One replication slot as the server sees it, with the server's current WAL position; no row where there is no slot.
-- Run by: whoever reads the slot (no privilege needed). Locks: none. Safe to repeat.
-- The columns of pg_replication_slots differ from 14 to 18; as JSON one statement reads them all.
select to_jsonb(slot),
       (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end)::text
  from pg_replication_slots as slot
 where slot.slot_name = %(slot)s
