-- What of ours is installed in schema wal_tracker, with the mark it carries and whether a superuser owns it.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
-- What comes and goes with a table (indexes, sequences of its columns, TOAST) is left out.
select 'schema', '', obj_description(oid, 'pg_namespace'), (select rolsuper from pg_roles where oid = nspowner)
  from pg_namespace
 where nspname = 'wal_tracker'
 union all
select 'function', proname::text, obj_description(oid, 'pg_proc'), (select rolsuper from pg_roles where oid = proowner)
  from pg_proc
 where pronamespace = to_regnamespace('wal_tracker')
 union all
select 'relation', relname::text, obj_description(oid, 'pg_class'), (select rolsuper from pg_roles where oid = relowner)
  from pg_class
 where relnamespace = to_regnamespace('wal_tracker')
   and relkind not in ('i', 'I', 't')
   and not exists (
       select
         from pg_depend
        where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype in ('a', 'i')
          and refclassid = 'pg_class'::regclass
       )
