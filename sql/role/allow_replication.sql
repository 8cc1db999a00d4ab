-- Let a role of ours that was made for trigger mode read by WAL, too.
-- Run by: a superuser, or (from 16 on) a role with CREATEROLE and REPLICATION. Locks: none. Safe to repeat.
alter role {role} replication
