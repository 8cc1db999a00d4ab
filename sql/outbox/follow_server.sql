-- The server was upgraded in place (pg_upgrade): it has another identifier, and the same transaction ids and tables.
-- Run by: the schema's owner. Locks: the reader's row. Safe to repeat.
update wal_tracker.reader set system_identifier = (select system_identifier::text from pg_control_system())
