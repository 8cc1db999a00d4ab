-- The state store in PostgreSQL: positions, dead letters, gaps.
-- Run by: the role of the state URL, once, when its schema is not there; needs CREATE on the database. An operator may run it
-- beforehand and grant usage on the schema and all on its tables. Locks: none that others feel. Safe to repeat.
create schema if not exists wal_tracker_state;
set local search_path to wal_tracker_state;

create table if not exists schema_version (
    only_row integer primary key check (only_row = 1),
    version  integer not null
);
insert into schema_version (only_row, version) values (1, 1) on conflict do nothing;

create table if not exists source (
    only_row          integer primary key check (only_row = 1),
    system_identifier text not null,
    timeline          bigint not null,
    database          text not null,
    slot              text not null
);

-- How far each destination is durable.
create table if not exists position (
    destination text primary key,
    lsn         text not null,
    mark        text                -- JSON; what the destination asked to be kept beside it
);

create table if not exists dead_letter (
    seq         bigint generated always as identity primary key,
    id          text not null,      -- of the event, or of the rule error
    destination text not null,      -- '' for a rule error
    kind        text not null,      -- rule, rejected
    status      text not null,      -- dead, replay, replayed
    rule        text not null,
    event       text not null,
    relation    text not null,
    commit_lsn  text not null,
    commit_time text not null,
    reason      text not null,
    payload     bytea not null,
    created_at  text not null,
    unique (id, destination)
);
create index if not exists dead_letter_status on dead_letter (status, seq);

create table if not exists gap (
    seq      bigint generated always as identity primary key,
    from_lsn text not null,
    to_lsn   text,                  -- null: not known how far
    reason   text not null,
    detail   text not null,
    at       text not null
);
create unique index if not exists gap_once on gap (from_lsn, coalesce(to_lsn, ''), reason, md5(detail));
