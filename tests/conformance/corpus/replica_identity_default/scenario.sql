-- The primary key: an UPDATE brings an old row only when the key changes, a DELETE brings the key.
create table accounts (id int primary key, email text, note text);
-- changes
insert into accounts values (1, 'a@example.org', null);
update accounts set email = 'b@example.org' where id = 1;
update accounts set id = 2, note = 'moved' where id = 1;
update accounts set id = 2 where id = 2;
delete from accounts where id = 2;
