-- How far a destination's table is; at its very first start the answer is made.
-- Run by: the role of the destination's dsn, on connecting. Locks: none that others feel. Safe to repeat.
insert into {position} (destination, relation)
values (%(destination)s, %(relation)s)
on conflict do nothing;

select id::text, batches, commit_lsn::text
  from {position}
 where destination = %(destination)s
   and relation = %(relation)s
