-- Transactions that change nothing published.
create table t (id int primary key);
create table private (id int primary key);
create publication p for table t;
-- wal2json: no, it knows no publications
-- changes
insert into private values (1);
create table also_private (id int);
insert into t values (1);
update t set id = 1 where id = 99;
begin;
insert into private values (2);
insert into t values (2);
commit;
