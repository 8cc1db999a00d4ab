-- Publish a table no longer.
-- Run by: the publication's owner. Locks: the table against other changes of its definition (share update exclusive).
-- Not repeatable: a table that is not in it is an error.
alter publication {publication} drop table {table}
