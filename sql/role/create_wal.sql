-- The role `wal_tracker run` logs in with in WAL mode. REPLICATION lets it read every published change: keep its password
-- as you would a superuser's.
-- Run by: a superuser, or (from 16 on) a role with CREATEROLE and REPLICATION. Locks: none. Not repeatable: a role of
-- that name is an error.
create role {role} login replication password {password}
