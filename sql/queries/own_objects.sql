-- What of ours is installed in schema wal_tracker, with the mark it carries.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select 'schema', '', obj_description(oid, 'pg_namespace')
  from pg_namespace
 where nspname = 'wal_tracker'
 union all
select 'function', proname::text, obj_description(oid, 'pg_proc')
  from pg_proc
 where pronamespace = to_regnamespace('wal_tracker')
 union all
select 'relation', relname::text, null
  from pg_class
 where relnamespace = to_regnamespace('wal_tracker')
