-- One workload of every operation, for test_parity.py. What stands before the line "-- workload" is done before.
create schema "Odd schema";
create table customers (id bigint primary key, email text, balance numeric(12,2), seen timestamptz, tags text[], meta jsonb);
create table orders (
    id bigint primary key, customer_id bigint references customers on delete cascade on update cascade, state text
);
create table items (
    id bigint generated always as identity primary key, order_id bigint references orders on delete cascade, price numeric
);
create table tree (
    id int primary key, parent_id int references tree on delete cascade on update cascade, name text
);
create table "Odd schema"."select" ("from" int primary key, "Where ""x"" y" text, "new" float8, "ünï" bytea);
create table log (at date, id int, note text, primary key (at, id)) partition by range (at);
create table log_1 partition of log for values from ('2026-01-01') to ('2026-02-01');
create table log_2 partition of log for values from ('2026-02-01') to ('2026-03-01');
create table deferred (id int primary key, parent_id int references deferred on delete cascade deferrable initially deferred);
-- workload
insert into customers values (1, 'a@x', 10.50, '2026-01-02 03:04:05.678+02', '{a,"b c"}', '{"a": 1.50}'), (2, null, -0.01, null, '{}', null);
insert into customers select n, 'c' || n || '@x', n * 1.10, now(), array[n::text, null], jsonb_build_object('n', n) from generate_series(3, 9) as n;
begin; insert into orders select n, n % 9 + 1, 'new' from generate_series(1, 30) as n;
insert into items (order_id, price) select n % 30 + 1, n / 4.0 from generate_series(1, 90) as n; commit;
begin; select wal_tracker.set_context('{"user": 1}'); update orders set state = 'paid' where id % 2 = 0;
savepoint a; update orders set state = 'lost'; rollback to savepoint a; savepoint b; update orders set state = 'sent' where id % 3 = 0;
release savepoint b; select wal_tracker.emit('{"event": "emitted", "properties": {"n": 1}}'); delete from items where id = 5; commit;
begin; insert into customers values (100, 'rolled back', 0, null, null, null); rollback;
do $$ begin begin insert into customers values (101, 'x'); raise exception 'caught'; exception when others then null; end;
insert into customers values (102, 'after'); end $$;
update customers set id = id + 1000 where id <= 2;
delete from customers where id % 3 = 0;
insert into customers values (4, 'again', 1, null, null, null), (50, 'fresh', 2, null, null, null)
    on conflict (id) do update set email = excluded.email, balance = customers.balance + 1;
insert into customers values (4, 'not', 1, null, null, null) on conflict do nothing;
update customers set email = email;
insert into tree values (1, null, 'root'), (2, 1, 'a'), (3, 1, 'b'), (4, 2, 'aa'), (5, 3, 'ba'), (6, 4, 'aaa'), (7, 6, 'aaaa');
update tree set id = id + 100 where id in (1, 4);
delete from tree where id = 101;
insert into deferred values (1, null), (2, 1), (3, 2), (4, 1);
begin; delete from deferred where id = 1; insert into deferred values (9, null); commit;
insert into "Odd schema"."select" values (1, 'q "uo\te', 'Infinity', '\x00ff'), (2, null, -0.0, '');
update "Odd schema"."select" set "from" = "from" + 10, "new" = 0.1;
insert into log values ('2026-01-05', 1, 'one'), ('2026-02-05', 2, 'two');
update log set note = 'moved', at = '2026-02-06' where id = 1;
update log_2 set note = 'by its leaf' where id = 2;
delete from log where id = 2;
begin; insert into items (price) values (1), (2); update items set price = price * 2 where order_id is null;
delete from items where order_id is null; insert into items (price) values (3); commit;
truncate items; truncate customers cascade;
insert into customers values (1, 'new life', null, null, null, null)
