-- min: 18
-- wal2json: no, it is not on this version
-- Stored generated columns, where the publication asks for them.
create table sums (id int primary key, a int, b int generated always as (a * 2) stored, c int generated always as (a * 3) virtual);
create publication p for all tables with (publish_generated_columns = stored);
-- changes
insert into sums (id, a) values (1, 2);
update sums set a = 3;
delete from sums;
