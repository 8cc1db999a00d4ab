-- The tables with a number, as they were called when `apply` last looked.
-- Run by: the role of source.primary_dsn or source.dsn, with select on it. Locks: none. Safe to repeat.
select id, relation::bigint, schema_name, table_name, ignored from wal_tracker.tracked order by id
