-- wal2json: no, its transactional messages end at a NUL byte (see logical_messages_of_text)
-- Context, events, other messages, and bytes that are no text.
create table t (id int primary key);
-- changes
begin;
insert into t values (1);
select pg_logical_emit_message(true, 'wal_tracker.context', '{"user_id": 42, "request_id": "r☃"}');
insert into t values (2);
select pg_logical_emit_message(true, 'wal_tracker.event', '{"event": "signed_in", "properties": {"a": 1}}');
select pg_logical_emit_message(true, 'bytes', '\x00ff00'::bytea);
select pg_logical_emit_message(true, 'wal_tracker.context', 'no JSON');
select pg_logical_emit_message(true, 'wal_tracker.context', '{}');
insert into t values (3);
commit;
begin;
select pg_logical_emit_message(false, 'outside', 'kept');
insert into t values (4);
select pg_logical_emit_message(true, 'inside', 'lost');
rollback;
select pg_logical_emit_message(true, 'wal_tracker.event', '{"event": "alone"}');
insert into t values (5);
