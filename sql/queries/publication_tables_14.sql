-- The tables a publication names; PostgreSQL 14, which has neither column lists nor row filters.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select namespace.nspname::text,
       class.relname::text,
       null::smallint[],
       null::text
  from pg_publication_rel as published
  join pg_publication as publication on publication.oid = published.prpubid
  join pg_class as class on class.oid = published.prrelid
  join pg_namespace as namespace on namespace.oid = class.relnamespace
 where publication.pubname = %(publication)s
 order by 1, 2
