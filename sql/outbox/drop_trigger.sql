-- Capture a table's changes no longer.
-- Run by: the table's owner. Locks: the table against everybody (access exclusive), until the transaction ends. Run it
-- with a short lock_timeout, and again. Not repeatable: no trigger is an error.
drop trigger {trigger} on {table}
