-- On which tables our role may create triggers, and what they are partitions of, at any level.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select class.oid::bigint,
       has_table_privilege(class.oid, 'trigger'),
       case
           when class.relispartition
           then array(select relid::oid::bigint from pg_partition_ancestors(class.oid) where relid <> class.oid)
           else '{}'
       end
  from pg_class as class
  join pg_namespace as namespace on namespace.oid = class.relnamespace
 where class.relkind in ('r', 'p')
   and namespace.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'wal_tracker')
   and namespace.nspname not like 'pg\_temp\_%'
