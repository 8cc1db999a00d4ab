-- What the server decodes for us; tables are added to it one by one.
-- Run by: a role with CREATE on the database. Locks: none. Not repeatable: a publication of that name is an error.
create publication {publication} with (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)
