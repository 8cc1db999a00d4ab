-- The tables a publication names, with column list (numbers) and row filter; PostgreSQL 15 and later.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select namespace.nspname::text,
       class.relname::text,
       published.prattrs::smallint[],
       pg_get_expr(published.prqual, published.prrelid)
  from pg_publication_rel as published
  join pg_publication as publication on publication.oid = published.prpubid
  join pg_class as class on class.oid = published.prrelid
  join pg_namespace as namespace on namespace.oid = class.relnamespace
 where publication.pubname = %(publication)s
 order by 1, 2
