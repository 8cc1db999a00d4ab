-- Drop a replication slot, and with it the server's promise to keep its WAL.
-- Run by: a role with REPLICATION. Locks: none. Not repeatable: no slot is an error, so is one being read (55006).
select pg_drop_replication_slot(%(slot)s)
