-- Remove the role our schema belonged to, unless another database of this server still needs it.
-- Run by: a superuser. Locks: none. Safe to repeat.
do $block$
begin
    drop role if exists wal_tracker_owner;
exception when dependent_objects_still_exist then
    raise notice 'role wal_tracker_owner stays: something else belongs to it';
end
$block$
