-- Which server process reads a slot; no row where there is no slot.
-- Run by: whoever reads the slot (no privilege needed). Locks: none. Safe to repeat.
select active_pid
  from pg_replication_slots
 where slot_name = %(slot)s
