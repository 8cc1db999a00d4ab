-- Who reads the outbox, of which server it holds transaction ids, and which server this is; no row before `apply`.
-- Run by: the role of source.dsn, with select on wal_tracker.reader. Locks: none. Safe to repeat.
select reader.system_identifier,
       server.system_identifier::text,
       pg_is_in_recovery(),
       pg_backend_pid(),
       case when reader.lease_until > clock_timestamp() then reader.holder end
  from wal_tracker.reader
 cross join pg_control_system() as server
