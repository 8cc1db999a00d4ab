-- Write the running transactions into the WAL, so that a standby waiting to make a logical slot can go on.
-- Run by: a superuser, or who may execute pg_log_standby_snapshot, on the primary (PostgreSQL 16 and later).
-- Locks: none. Safe to repeat.
select pg_log_standby_snapshot()
