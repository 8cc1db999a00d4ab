-- Tables of no column, of one dropped, and of an identity column.
create table none ();
create table dropped (id int primary key, gone text, kept text);
alter table dropped drop column gone;
create table numbered (id int generated always as identity primary key, note text);
-- changes
insert into none default values;
insert into dropped values (1, 'kept');
insert into numbered (note) values ('a');
