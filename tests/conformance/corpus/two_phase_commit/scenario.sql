-- Nothing at PREPARE, everything at COMMIT PREPARED.
create table t (id int primary key);
-- changes
begin;
insert into t values (1);
select pg_logical_emit_message(true, 'wal_tracker.context', '{"a": 1}');
insert into t values (2);
prepare transaction 'one';
insert into t values (3);
commit prepared 'one';
begin;
insert into t values (4);
prepare transaction 'two';
rollback prepared 'two';
insert into t values (5);
