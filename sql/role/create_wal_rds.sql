-- The role `wal_tracker run` logs in with in WAL mode, where the provider keeps REPLICATION to itself (RDS, Aurora).
-- Run by: a member of rds_superuser. Locks: none. Not repeatable: a role of that name is an error.
create role {role} login password {password};
grant rds_replication to {role}
