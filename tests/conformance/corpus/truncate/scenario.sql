-- One change for each published table, cascade or not.
create table orders (id int primary key);
create table lines (id int primary key, order_id int references orders);
create table alone (id serial primary key);
-- changes
insert into orders values (1);
insert into lines values (1, 1);
insert into alone default values;
truncate alone restart identity;
begin;
insert into alone default values;
truncate orders cascade;
truncate alone, lines;
truncate alone;
commit;
