-- Capture again, where somebody has disabled a trigger of ours.
-- Run by: the table's owner. Locks: the table against writers (share row exclusive), until the transaction ends.
-- Safe to repeat.
alter table {table} enable trigger {trigger}
