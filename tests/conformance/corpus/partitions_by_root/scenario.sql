-- wal2json: no, it names the partition
-- Published through the root, a row is the root's whatever partition it lies in.
create table measures (day date not null, id int, v int, primary key (day, id)) partition by range (day);
create table measures_2025 (id int, v int, day date not null, primary key (day, id));
alter table measures attach partition measures_2025 for values from ('2025-01-01') to ('2026-01-01');
create table measures_2026 partition of measures for values from ('2026-01-01') to ('2027-01-01');
create publication p for all tables with (publish_via_partition_root = true);
-- changes
insert into measures values ('2025-05-01', 1, 10), ('2026-05-01', 2, 20);
update measures set v = 11 where id = 1;
update measures set day = '2025-06-01' where id = 1;
update measures set day = '2026-06-01' where id = 1;
delete from measures;
insert into measures values ('2026-05-01', 3, 30);
truncate measures;
