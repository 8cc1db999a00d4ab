-- Since when the server counts what is written to tables, in seconds.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
-- pg_stat_reset() notes itself per database; before the first one, the cluster's own counters say when counting began.
select extract(epoch from clock_timestamp() - greatest(
           (select stats_reset from pg_stat_database where datname = current_database()),
           (select stats_reset from pg_stat_bgwriter)
       ))::double precision
