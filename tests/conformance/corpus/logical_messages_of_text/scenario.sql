-- As logical_messages, with text only.
create table t (id int primary key);
-- changes
begin;
insert into t values (1);
select pg_logical_emit_message(true, 'wal_tracker.context', '{"user_id": 42, "request_id": "r☃"}');
insert into t values (2);
select pg_logical_emit_message(true, 'wal_tracker.event', '{"event": "signed_in", "properties": {"a": 1}}');
select pg_logical_emit_message(true, 'pre fix"\', E'line\nline');
select pg_logical_emit_message(true, '', '');
select pg_logical_emit_message(true, 'latin', '\xe9'::bytea);
commit;
select pg_logical_emit_message(false, 'outside', '{"a": "\\"}');
select pg_logical_emit_message(false, 'wal_tracker.context', '{"user_id": 42}');
select pg_logical_emit_message(true, 'wal_tracker.event', '{"event": "alone"}');
