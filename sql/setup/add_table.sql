-- Publish one more table.
-- Run by: the publication's owner, who owns the table, too. Locks: the table against other changes of its definition
-- (share update exclusive); reads and writes go on. Not repeatable: a table that is in it is an error.
alter publication {publication} add table {table}
