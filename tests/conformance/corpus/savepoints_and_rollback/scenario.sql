-- What was rolled back is not in the stream.
create table t (id int primary key, note text);
-- changes
begin;
insert into t values (1, 'kept');
savepoint a;
insert into t values (2, 'lost');
savepoint b;
insert into t values (3, 'lost');
rollback to savepoint a;
insert into t values (4, 'kept');
savepoint c;
update t set note = 'kept too' where id = 1;
release savepoint c;
commit;
begin;
insert into t values (5, 'lost');
rollback;
begin;
commit;
insert into t values (6, 'kept');
