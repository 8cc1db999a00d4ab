-- No old row at all: such a table can be published for INSERT and TRUNCATE only.
create table lines (id int primary key, note text);
alter table lines replica identity nothing;
create table keyless (note text);
create publication p for all tables with (publish = 'insert, truncate');
-- changes
insert into lines values (1, 'a'), (2, null);
insert into keyless values ('x');
truncate lines;
