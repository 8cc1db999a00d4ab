-- A text that is another one after any change of what queries/tables.sql and queries/types.sql read.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
-- Every change of a catalog row leaves the changing transaction's number in it; VACUUM and ANALYZE leave none.
select concat_ws(
           ' ',
           (select concat(count(*), '/', sum(xmin::text::bigint)) from pg_namespace),
           (select concat(count(*), '/', sum(xmin::text::bigint)) from pg_class),
           (select concat(count(*), '/', sum(xmin::text::bigint)) from pg_attribute),
           (select concat(count(*), '/', sum(xmin::text::bigint)) from pg_index),
           (select concat(count(*), '/', sum(xmin::text::bigint)) from pg_type),
           (select concat(count(*), '/', sum(xmin::text::bigint)) from pg_inherits)
       )
