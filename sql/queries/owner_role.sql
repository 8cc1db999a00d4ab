-- Who owns schema wal_tracker and who we are; and the role wal_tracker_owner, with what belongs to it elsewhere.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select (select rolsuper from pg_roles where rolname = current_user),
       (select pg_get_userbyid(nspowner)::text from pg_namespace where nspname = 'wal_tracker'),
       (select pg_has_role(nspowner, 'usage') from pg_namespace where nspname = 'wal_tracker'),
       owner.oid is not null,
       coalesce(shobj_description(owner.oid, 'pg_authid'), ''),
       coalesce(owner.rolsuper or owner.rolcanlogin, false),
       exists (
           select
             from pg_shdepend
            where refclassid = 'pg_authid'::regclass
              and refobjid = owner.oid
              and dbid <> (select oid from pg_database where datname = current_database())
       )
  from (select) as one
  left join pg_roles as owner on owner.rolname = 'wal_tracker_owner'
