-- Which server and database this is, without a replication connection.
-- Run by: the role of source.dsn (no privilege needed). Locks: none. Safe to repeat.
select server.system_identifier::text, place.timeline_id, current_database()::text
  from pg_control_system() as server, pg_control_checkpoint() as place
