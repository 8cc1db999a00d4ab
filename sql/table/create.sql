-- The table of the `postgres` destination, and how far it is: one row for each destination that writes to a table here.
-- Run by: the role of its dsn where `create: true` is set and one of them is missing; needs CREATE on the schema. An operator
-- may run it beforehand, with the names filled in, and grant select and insert on the first, select, insert and update on the
-- second. Locks: none that others feel. Safe to repeat.
-- One at a time: `create … if not exists` of two sessions at once can still collide. "wal_" and "tabl" in ASCII.
select pg_advisory_xact_lock(2002873439, 1952539244);

create table if not exists {table} (
    event_id    uuid primary key,
    event       text not null,
    distinct_id text,
    occurred_at timestamptz not null,
    commit_lsn  pg_lsn,
    source      jsonb not null,
    properties  jsonb not null,
    received_at timestamptz not null default now()
);

create table if not exists {position} (
    destination text not null,                            -- its key in the configuration
    relation    text not null,                            -- the table, as the configuration names it
    id          uuid not null default gen_random_uuid(),  -- tells this table from one made anew
    batches     bigint not null default 0,                -- transactions committed; only ever grows
    events      bigint not null default 0,                -- in them, those that came again too
    commit_lsn  pg_lsn,                                   -- of the last event, as its source numbered it
    event_id    uuid,                                     -- the last event
    moved_at    timestamptz not null default now(),
    primary key (destination, relation)
);
