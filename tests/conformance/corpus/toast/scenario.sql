-- A value out of line that does not change is not resent; under FULL the old row has it.
create table pages (id int primary key, title text, body text, extra jsonb);
alter table pages alter body set storage external, alter extra set storage external;
create table archive (id int primary key, title text, body text);
alter table archive alter body set storage external;
alter table archive replica identity full;
create table keyed (code text, n int, note text, primary key (code, n));
alter table keyed alter code set storage external, alter note set storage external;
-- changes
insert into pages values (1, 'one', repeat('ab', 1100), null), (2, 'two', null, jsonb_build_object('k', repeat('cd', 1100)));
update pages set title = 'uno' where id = 1;
update pages set title = 'due' where id = 2;
update pages set id = 3 where id = 1;
update pages set body = repeat('ef', 1100) where id = 3;
update pages set body = null where id = 3;
delete from pages where id = 2;
insert into archive values (1, 'one', repeat('ab', 1100)), (2, 'two', null);
update archive set title = 'uno' where id = 1;
update archive set title = null where id = 2;
update archive set body = 'short' where id = 1;
delete from archive;
insert into keyed values (repeat('k', 2100), 1, repeat('n', 2100));
update keyed set n = 2;
update keyed set note = 'short';
