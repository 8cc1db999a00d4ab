-- Publish all four operations, and partitions as the table they belong to.
-- Run by: the publication's owner. Locks: none. Safe to repeat.
alter publication {publication} set (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)
