-- A role by its name: whether it can replicate, and its mark; and whether this is a provider's server with a role for that.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select role.oid is not null,
       coalesce(role.rolreplication or role.rolsuper, false),
       coalesce(shobj_description(role.oid, 'pg_authid'), ''),
       exists (select from pg_roles where rolname = 'rds_replication'),
       current_database()::text,
       to_regnamespace('wal_tracker') is not null,
       to_regclass('wal_tracker.outbox') is not null
  from (select) as one
  left join pg_roles as role on role.rolname = %(role)s
