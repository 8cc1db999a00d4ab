-- Types with a cast to json that a user has made: row_to_json calls it, with the rights of who calls row_to_json.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
-- An extension's are trusted, and of built-in types no cast is called; 16384 is FirstNormalObjectId.
select castsource::bigint
  from pg_cast
 where casttarget = 'json'::regtype
   and castfunc <> 0
   and castsource >= 16384
   and not exists (
       select
         from pg_depend
        where pg_depend.classid = 'pg_cast'::regclass and objid = pg_cast.oid and deptype = 'e'
       )
