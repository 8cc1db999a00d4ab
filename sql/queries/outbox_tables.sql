-- The tables that are captured: by number, as they are now, with their columns; no name where a table was dropped.
-- Run by: the role of source.dsn, with select on wal_tracker.tracked. Locks: none. Safe to repeat.
select tracked.id,
       tracked.relation::bigint,
       tracked.schema_name,
       tracked.table_name,
       namespace.nspname::text,
       class.relname::text,
       coalesce(columns.list, '[]'::jsonb),
       -- Enabled in the way a session of the application meets it.
       exists (
           select
             from pg_trigger
            where tgrelid = class.oid and tgname = '00_wal_tracker_capture' and tgenabled in ('O', 'A')
       ),
       -- Whatever the session's settings, values are written in one way.
       exists (
           select
             from pg_trigger
             join pg_proc on pg_proc.oid = tgfoid
            cross join unnest(proconfig) as setting
            where tgrelid = class.oid and tgname = '00_wal_tracker_capture' and setting ilike 'datestyle=%'
       )
  from wal_tracker.tracked
  left join pg_class as class on class.oid = tracked.relation
  left join pg_namespace as namespace on namespace.oid = class.relnamespace
  left join lateral (
       select jsonb_agg(
                  jsonb_build_array(attname, atttypid::bigint, atttypmod, attgenerated <> '') order by attnum
              ) as list
         from pg_attribute
        where attrelid = class.oid and attnum > 0 and not attisdropped
       ) as columns on true
 order by tracked.id
