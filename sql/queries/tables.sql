-- Every table (and view, to say that it is one) of the database, with its columns and replica identity.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
-- A deferrable primary key does not serve as replica identity, hence indimmediate. For a partitioned table the
-- identities of its leaves count: PostgreSQL looks at the leaf a row is in. So it is FULL when all of them are.
select class.oid::bigint,
       namespace.nspname::text,
       class.relname::text,
       class.relkind::text,
       class.relpersistence::text,
       policy.identity,
       class.reltoastrelid <> 0 or class.relkind = 'p',
       pg_has_role(class.relowner, 'usage'),
       coalesce(columns.list, '[]'::jsonb),
       coalesce(identity.names, '{}'),
       coalesce(primary_key.names, '{}'),
       coalesce(leaves.names, '{}')
  from pg_class as class
  join pg_namespace as namespace on namespace.oid = class.relnamespace
  cross join lateral (
       select coalesce(
                  case
                      when bool_and(leaf.relreplident = 'f') then 'f'
                      when count(leaf.oid) > 0 and class.relreplident = 'f' then 'd'
                  end,
                  class.relreplident::text
              ) as identity
         from pg_partition_tree(class.oid) as tree
         join pg_class as leaf on leaf.oid = tree.relid
        where class.relkind = 'p'
          and tree.isleaf
          and leaf.relkind = 'r'
       ) as policy
  left join lateral (
       select jsonb_agg(
                  jsonb_build_array(attname, atttypid::bigint, atttypmod, attstorage, attgenerated, attnum)
                  order by attnum
              ) as list
         from pg_attribute
        where attrelid = class.oid and attnum > 0 and not attisdropped
       ) as columns on true
  left join lateral (
       select array_agg(attname::text order by attnum) as names
         from pg_index
         join pg_attribute on attrelid = indrelid and attnum = any (indkey)
        where indrelid = class.oid
          and indisvalid
          and case policy.identity
                  when 'd' then indisprimary and indimmediate
                  when 'i' then indisreplident
              end
       ) as identity on true
  left join lateral (
       select array_agg(attname::text order by attnum) as names
         from pg_index
         join pg_attribute on attrelid = indrelid and attnum = any (indkey)
        where indrelid = class.oid and indisprimary
       ) as primary_key on true
  left join lateral (
       select array_agg(leaf.oid::regclass::text order by leaf.oid) as names
         from pg_partition_tree(class.oid) as tree
         join pg_class as leaf on leaf.oid = tree.relid
        where class.relkind = 'p'
          and tree.isleaf
          and leaf.relkind = 'r'
          and leaf.relreplident <> 'f'
          and not exists (
              select
                from pg_index
               where indrelid = leaf.oid
                 and indisvalid
                 and case leaf.relreplident
                         when 'd' then indisprimary and indimmediate
                         when 'i' then indisreplident
                     end
              )
       ) as leaves on true
 where class.relkind in ('r', 'p', 'v', 'm', 'f')
   and namespace.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
   and namespace.nspname not like 'pg\_temp\_%%'
 order by namespace.nspname, class.relname
