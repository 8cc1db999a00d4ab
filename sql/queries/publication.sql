-- A publication as it is; no row where there is none.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select puballtables,
       pubinsert and pubupdate and pubdelete and pubtruncate,
       pubviaroot,
       obj_description(oid, 'pg_publication')
  from pg_publication
 where pubname = %(publication)s
