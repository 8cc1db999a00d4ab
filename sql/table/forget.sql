-- A table that is made anew has nothing of what was delivered to the one before it.
-- Run by: the role of the destination's dsn, when it makes the table. Locks: the rows it removes. Safe to repeat.
delete from {position}
 where relation = %(relation)s
