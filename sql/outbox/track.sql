-- Give a table the number its capture function carries. Numbers are never given twice: captured rows carry them, too.
-- Run by: the schema's owner. Locks: none. Not repeatable: a number that is taken is an error.
insert into wal_tracker.tracked (id, relation, schema_name, table_name, ignored) overriding system value
values ({id}, {table}::regclass, {schema_name}, {table_name}, {ignored});
select setval('wal_tracker.tracked_id_seq', {id})
