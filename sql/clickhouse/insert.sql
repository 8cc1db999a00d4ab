-- A batch of events, a line of JSON each, which follow this in the request.
-- Run by: the user of the destination. Locks: none. Safe to repeat: the token is that of the events.
insert into {table} (event_id, event, distinct_id, occurred_at, commit_lsn, source, properties)
settings insert_deduplication_token = '{token}'
format JSONEachRow
