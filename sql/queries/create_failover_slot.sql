-- Make a logical replication slot that is copied to standbys (PostgreSQL 17 and later).
-- Run by: a role with REPLICATION, outside a transaction that has written. Waits for every transaction now running.
-- Locks: none. Not repeatable: a slot of that name is an error.
select slot_name, lsn::text
  from pg_create_logical_replication_slot(%(slot)s, %(plugin)s, false, false, true)
