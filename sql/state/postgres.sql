-- The state store in PostgreSQL: positions, dead letters, gaps.
-- Run by: the role of the state URL, when its schema is not there, or is of an older version; needs CREATE on the database,
-- and for an older one the tables' ownership. An operator may run it beforehand and grant usage on the schema and all on its
-- tables. Locks: its tables, for this script. Safe to repeat.
create schema if not exists wal_tracker_state;
set local search_path to wal_tracker_state;

create table if not exists schema_version (
    only_row integer primary key check (only_row = 1),
    version  integer not null
);
insert into schema_version (only_row, version) values (1, 2) on conflict do nothing;

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
    mark        text,               -- JSON; what the destination asked to be kept beside it
    spool       text                -- JSON; where its spool stands
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
    answer      text,               -- the vendor's own, where there was one
    unique (id, destination)
);
create index if not exists dead_letter_status on dead_letter (status, seq);
-- Counts and ages by destination, without a look at the payloads.
create index if not exists dead_letter_count on dead_letter (destination, kind, status, created_at);

create table if not exists gap (
    seq      bigint generated always as identity primary key,
    from_lsn text not null,
    to_lsn   text,                  -- null: not known how far
    reason   text not null,
    detail   text not null,
    at       text not null,
    events   bigint                 -- how many went; null: not known
);
create unique index if not exists gap_once on gap (from_lsn, coalesce(to_lsn, ''), reason, md5(detail));

-- Version 1 had fewer columns.
alter table position add column if not exists spool text;
alter table dead_letter add column if not exists answer text;
alter table gap add column if not exists events bigint;
update schema_version set version = 2 where version = 1;
