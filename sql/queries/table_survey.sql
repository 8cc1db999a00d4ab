-- Every table a rule may track, with what is known of its size, its writes and what its columns may hold.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
-- A partitioned table stands for its partitions, which are left out, as are tables of extensions. Counters are the
-- statistics collector's, since they were last set to zero; rows are the planner's estimate, -1 where it has none yet.
-- What single-column CHECK constraints and enums allow tells which values a status column has.
select namespace.nspname::text,
       class.relname::text,
       numbers.rows::bigint,
       coalesce(numbers.inserts, 0)::bigint,
       coalesce(numbers.updates, 0)::bigint,
       coalesce(numbers.deletes, 0)::bigint,
       coalesce(required.names, '{}'),
       coalesce(checks.list, '[]'::jsonb),
       coalesce(labels.list, '[]'::jsonb),
       coalesce(links.list, '[]'::jsonb)
  from pg_class as class
  join pg_namespace as namespace on namespace.oid = class.relnamespace
  cross join lateral (
       select case
                  when bool_or(leaf.reltuples >= 0) then sum(greatest(leaf.reltuples, 0))
                  else coalesce(nullif(sum(pg_stat_get_live_tuples(leaf.oid)), 0), -1)
              end as rows,
              sum(pg_stat_get_tuples_inserted(leaf.oid)) as inserts,
              sum(pg_stat_get_tuples_updated(leaf.oid)) as updates,
              sum(pg_stat_get_tuples_deleted(leaf.oid)) as deletes
         from (
              select class.oid as relid
               where class.relkind = 'r'
               union all
              select relid
                from pg_partition_tree(class.oid)
               where class.relkind = 'p' and isleaf
              ) as holder
         join pg_class as leaf on leaf.oid = holder.relid
       ) as numbers
  left join lateral (
       select array_agg(attname::text order by attnum) as names
         from pg_attribute
        where attrelid = class.oid and attnum > 0 and not attisdropped and attnotnull
       ) as required on true
  left join lateral (
       select jsonb_agg(jsonb_build_array(attname, pg_get_constraintdef(pg_constraint.oid)) order by conname) as list
         from pg_constraint
         join pg_attribute on attrelid = conrelid and attnum = conkey[1]
        where conrelid = class.oid and contype = 'c' and cardinality(conkey) = 1
       ) as checks on true
  left join lateral (
       select jsonb_agg(jsonb_build_array(attname, enumlabel) order by attnum, enumsortorder) as list
         from pg_attribute
         join pg_enum on enumtypid = atttypid
        where attrelid = class.oid and attnum > 0 and not attisdropped
       ) as labels on true
  left join lateral (
       select jsonb_agg(jsonb_build_array(attname, there.nspname, target.relname) order by attnum) as list
         from pg_constraint
         join pg_attribute on attrelid = conrelid and attnum = conkey[1]
         join pg_class as target on target.oid = confrelid
         join pg_namespace as there on there.oid = target.relnamespace
        where conrelid = class.oid and contype = 'f' and cardinality(conkey) = 1
       ) as links on true
 where class.relkind in ('r', 'p')
   and class.relpersistence <> 't'
   and not class.relispartition
   and namespace.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'wal_tracker', 'wal_tracker_state')
   and not exists (
       select
         from pg_depend
        where pg_depend.classid = 'pg_class'::regclass and objid = class.oid and deptype = 'e'
       )
 order by namespace.nspname, class.relname
