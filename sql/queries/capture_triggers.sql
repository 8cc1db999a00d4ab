-- Every trigger that is ours, or has the name of one of ours; without the copies on partitions.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select class.oid::bigint,
       namespace.nspname::text,
       class.relname::text,
       trigger.tgname::text,
       case when function.pronamespace = to_regnamespace('wal_tracker') then function.proname::text end,
       -- As a session of the application meets it.
       trigger.tgenabled in ('O', 'A'),
       pg_has_role(class.relowner, 'usage')
  from pg_trigger as trigger
  join pg_class as class on class.oid = trigger.tgrelid
  join pg_namespace as namespace on namespace.oid = class.relnamespace
  join pg_proc as function on function.oid = trigger.tgfoid
 where not trigger.tgisinternal
   and trigger.tgparentid = 0
   and (
       trigger.tgname in ('00_wal_tracker_capture', '00_wal_tracker_capture_truncate')
       or function.pronamespace = to_regnamespace('wal_tracker')
   )
 order by namespace.nspname, class.relname, trigger.tgname
