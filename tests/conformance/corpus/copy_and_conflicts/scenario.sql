-- Other ways to write rows.
create table t (id int primary key, n int, note text default 'made');
-- changes
insert into t select g, g from generate_series(1, 3) g;
insert into t values (1, 10), (4, 4) on conflict (id) do update set n = excluded.n;
insert into t values (1, 0) on conflict do nothing;
with gone as (delete from t where id = 2 returning *) insert into t select id + 100, n, note from gone;
select * from t where id = 1 for update;
update t set n = n;
