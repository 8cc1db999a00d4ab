-- The types this database has beside the built-in ones: enums, domains, composites, ranges, and arrays of them.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
-- Row types of tables are left out; 16384 is FirstNormalObjectId.
select type.oid::bigint,
       format_type(type.oid, -1),
       case
           when type.typcategory = 'A' and type.typelem <> 0 then 'a'
           when type.typtype in ('r', 'm') then 'r'
           else type.typtype::text
       end,
       type.typelem::bigint,
       type.typbasetype::bigint,
       coalesce(attributes.list, '[]'::jsonb)
  from pg_type as type
  left join pg_class as row_type on row_type.oid = type.typrelid
  left join pg_type as element on element.oid = type.typelem
  left join pg_class as element_row_type on element_row_type.oid = element.typrelid
  left join lateral (
       select jsonb_agg(jsonb_build_array(attname, atttypid::bigint) order by attnum) as list
         from pg_attribute
        where attrelid = type.typrelid and attnum > 0 and not attisdropped and type.typrelid <> 0
       ) as attributes on true
 where type.oid >= 16384
   and type.typtype in ('b', 'c', 'd', 'e', 'r', 'm')
   and (row_type.relkind is null or row_type.relkind = 'c')
   and (element_row_type.relkind is null or element_row_type.relkind = 'c')
