-- wal2json: no, it does not tell the identity, and the catalog tells today's
-- The replica identity changes in the course of the stream.
create table t (id int primary key, note text);
-- changes
insert into t values (1, 'a');
update t set note = 'b';
alter table t replica identity full;
update t set note = 'c';
begin;
delete from t;
alter table t replica identity default;
insert into t values (2, 'd');
update t set note = 'e';
delete from t;
commit;
