-- min: 15
-- wal2json: no, it knows no publications
-- What a publication leaves out never leaves the server; a row that comes into its filter is an insert, one that goes is a delete.
create table users (id int primary key, email text, password text, active bool not null);
alter table users replica identity full;
create table people (id int primary key, email text, password text);
create publication p for table users where (active), people (id, email);
-- changes
insert into users values (1, 'a', 'secret', true), (2, 'b', 'secret', false);
update users set email = 'c' where id = 1;
update users set active = true where id = 2;
update users set active = false where id = 1;
delete from users;
insert into people values (1, 'a', 'secret');
update people set email = 'b';
delete from people;
