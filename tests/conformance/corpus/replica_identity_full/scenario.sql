-- Every UPDATE and DELETE brings the whole old row; NULLs in it are NULLs.
create table accounts (id int primary key, email text, note text);
alter table accounts replica identity full;
create table keyless (a int, b text);
alter table keyless replica identity full;
-- changes
insert into accounts values (1, 'a@example.org', null);
update accounts set email = 'b@example.org', note = 'set' where id = 1;
update accounts set id = 2, note = null where id = 1;
delete from accounts where id = 2;
insert into keyless values (null, null), (1, 'x');
update keyless set b = 'y' where a is null;
delete from keyless;
