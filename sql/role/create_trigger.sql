-- The role `wal_tracker run` logs in with in trigger mode. It reads no table but the outbox.
-- Run by: a role with CREATEROLE. Locks: none. Not repeatable: a role of that name is an error.
create role {role} login password {password}
