-- A batch of events, and that the table has it: one transaction, so neither is ever there without the other.
-- Run by: the role of the destination's dsn. Locks: the rows it writes. Safe to repeat: an event that is there stays as it is.
-- The settings are the transaction's own: a pooler would hand a session's on to others. Durable means on disk, whatever the
-- server's default says.
select set_config('synchronous_commit', 'on', true),
       set_config('statement_timeout', %(timeout_ms)s, true);

insert into {table} (event_id, event, distinct_id, occurred_at, commit_lsn, source, properties)
select (document ->> 'id')::uuid,
       document ->> 'event',
       document ->> 'distinct_id',
       (document ->> 'timestamp')::timestamptz,
       (document -> 'source' ->> 'commit_lsn')::pg_lsn,
       document -> 'source',
       document -> 'properties'
  from unnest(%(documents)s::jsonb[]) with ordinality as given (document, place)
 order by place
on conflict (event_id) do nothing;

insert into {position} as p (destination, relation, batches, events, commit_lsn, event_id)
values (%(destination)s, %(relation)s, 1, %(events)s, %(commit_lsn)s, %(event_id)s)
on conflict (destination, relation) do update
   set batches = p.batches + 1,
       events = p.events + excluded.events,
       commit_lsn = excluded.commit_lsn,
       event_id = excluded.event_id,
       moved_at = now()
returning id::text, batches - 1, commit_lsn::text
