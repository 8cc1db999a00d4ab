-- wal2json: no, it sends stored generated columns
-- A generated column is not published by default.
create table sums (id int primary key, a int, b int generated always as (a * 2) stored);
-- changes
insert into sums (id, a) values (1, 2);
update sums set a = 3;
delete from sums;
