-- Capture a table's changes; on a partitioned table also those of its partitions, and of partitions made later.
-- Run by: a role with TRIGGER on the table that may execute the function. Locks: the table against writers (share row
-- exclusive), until the transaction ends: it waits for every transaction that has written to the table. Run it with a
-- short lock_timeout, and again. Not repeatable: triggers of these names are an error.
-- Triggers fire in the order of their names. Ours come first: another one that changes the row it was called for makes
-- a change that is captured after this one, as it is in the WAL.
create trigger "00_wal_tracker_capture" after insert or update or delete on {table}
    for each row execute function {function}();
create trigger "00_wal_tracker_capture_truncate" after truncate on {table}
    for each statement execute function {function}()
