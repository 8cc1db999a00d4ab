-- What stands between this role and logical replication.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select current_setting('wal_level'),
       pg_is_in_recovery(),
       current_setting('max_replication_slots')::integer - (select count(*)::integer from pg_replication_slots),
       current_setting('max_wal_senders')::integer,
       (select setting from pg_settings where name = 'output_plugin_libraries'),
       current_user::text,
       (select rolsuper or rolreplication from pg_roles where rolname = current_user)
           or exists (select from pg_roles where rolname = 'rds_replication' and pg_has_role(oid, 'member')),
       has_database_privilege(current_database(), 'create')
