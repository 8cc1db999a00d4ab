-- Only the triggers call a capture function: nobody attaches it to a table of his own, whatever is granted by default.
-- Run by: the function's owner. Locks: none. Safe to repeat.
do $revoke$
declare
    grantee text;
begin
    revoke all on function {function}() from public;
    for grantee in
        select distinct quote_ident(rolname)
          from pg_proc as function
         cross join aclexplode(proacl) as granted
          join pg_roles as role on role.oid = granted.grantee
         where function.oid = '{function}()'::regprocedure and granted.grantee <> proowner
    loop
        execute 'revoke all on function {function}() from ' || grantee;
    end loop;
end
$revoke$
