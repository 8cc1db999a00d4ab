-- Of tables by name: whether each is there, whether it is published, and which of its columns are not.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
-- pg_publication_tables names columns from PostgreSQL 15 on; as JSON one statement reads both.
select named.schema_name,
       named.table_name,
       class.oid is not null,
       published.row is not null,
       case
           when published.row -> 'attnames' is null then '{}'
           else array(
               select attname::text
                 from pg_attribute
                where attrelid = class.oid
                  and attnum > 0
                  and not attisdropped
                  and attgenerated = ''
                  and not published.row -> 'attnames' ? attname::text
                order by attnum
           )
       end
  from unnest(%(schemas)s::text[], %(tables)s::text[]) as named (schema_name, table_name)
  left join pg_namespace as namespace on namespace.nspname = named.schema_name
  left join pg_class as class
    on class.relnamespace = namespace.oid and class.relname = named.table_name and class.relkind in ('r', 'p')
  left join lateral (
       select to_jsonb(tables) as row
         from pg_publication_tables as tables
        where tables.pubname = %(publication)s
          and tables.schemaname = named.schema_name
          and tables.tablename = named.table_name
       ) as published on true
 order by 1, 2
