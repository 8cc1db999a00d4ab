-- Who keeps us from changing a table: sessions that hold or await a lock on it. Without what they run.
-- Run by: anybody; of other roles' sessions less is seen without pg_read_all_stats. Locks: none. Safe to repeat.
select activity.pid,
       coalesce(activity.usename::text, 'the server'),
       coalesce(nullif(activity.application_name, ''), activity.backend_type, 'unnamed'),
       coalesce(activity.state, 'state not shown'),
       extract(epoch from clock_timestamp() - activity.xact_start)::float8
  from pg_locks as held
  join pg_stat_activity as activity on activity.pid = held.pid
 where held.locktype = 'relation'
   and held.database = (select oid from pg_database where datname = current_database())
   and held.relation in (
           select to_regclass(%(table)s) union all select relid from pg_partition_tree(to_regclass(%(table)s))
       )
   and held.granted
   and held.pid <> pg_backend_pid()
 order by activity.xact_start
 limit 5
