-- How far the server's WAL goes: flushed on a primary, replayed on a standby.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end)::text
