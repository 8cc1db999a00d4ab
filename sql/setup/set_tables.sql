-- Publish exactly these tables and columns.
-- Run by: the publication's owner, who owns the tables, too. Locks: the tables against other changes of their
-- definition (share update exclusive); reads and writes go on. Safe to repeat.
alter publication {publication} set table {tables}
