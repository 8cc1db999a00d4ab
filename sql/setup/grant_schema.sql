-- Let the application call the functions; nobody but us creates anything there, whatever is granted by default.
-- Run by: the schema's owner. Locks: none. Safe to repeat.
grant usage on schema wal_tracker to public;
do $revoke$
declare
    grantee text;
begin
    revoke create on schema wal_tracker from public;
    for grantee in
        select distinct quote_ident(rolname)
          from pg_namespace
         cross join aclexplode(nspacl) as granted
          join pg_roles as role on role.oid = granted.grantee
         where nspname = 'wal_tracker' and granted.grantee <> nspowner and privilege_type = 'CREATE'
    loop
        execute 'revoke create on schema wal_tracker from ' || grantee;
    end loop;
end
$revoke$
