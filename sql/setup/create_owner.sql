-- The role our schema and functions belong to where a superuser sets up: functions that run with their owner's rights
-- shall not run with a superuser's. It cannot log in.
-- Run by: a superuser. Locks: none. Safe to repeat, and two may run it at once.
do $block$
begin
    create role wal_tracker_owner nologin;
    comment on role wal_tracker_owner is 'made by wal_tracker';
exception when duplicate_object or unique_violation then
    raise notice 'role wal_tracker_owner is there already';
end
$block$
