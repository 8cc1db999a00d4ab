-- A tracked table has another name, or (after a restore) another object identifier, or other ignored columns.
-- Run by: the schema's owner. Locks: none. Safe to repeat.
update wal_tracker.tracked
   set relation = {table}::regclass, schema_name = {schema_name}, table_name = {table_name},
       ignored = {ignored}
 where id = {id}
