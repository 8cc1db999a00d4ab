-- On which tables our role may create triggers, what they are partitions of, at any level, and whether a subscription
-- writes to them past our triggers.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select class.oid::bigint,
       has_table_privilege(class.oid, 'trigger'),
       case
           when class.relispartition
           then array(select relid::oid::bigint from pg_partition_ancestors(class.oid) where relid <> class.oid)
           else '{}'
       end,
       exists (select from pg_subscription_rel where srrelid = class.oid)
       and not exists (
           select
             from pg_trigger
            where tgrelid = class.oid and tgname = '00_wal_tracker_capture' and tgenabled = 'A'
       )
  from pg_class as class
  join pg_namespace as namespace on namespace.oid = class.relnamespace
 where class.relkind in ('r', 'p')
   and namespace.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'wal_tracker')
   and namespace.nspname not like 'pg\_temp\_%'
