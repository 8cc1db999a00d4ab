-- What trigger mode keeps in the database: captured changes, and who reads them.
-- Run by: the schema's owner. Locks: none. Safe to repeat: what is there already stays as it is.

-- What the capture function looks at before each row, without a query and without a lock. Bit 0: which of the two
-- outbox tables is written to. Bit 1: the reader sleeps, and wants to be woken by a notification.
create sequence if not exists wal_tracker.signal as smallint minvalue 0 maxvalue 3 start 0;
select setval('wal_tracker.signal', 0) where pg_sequence_last_value('wal_tracker.signal') is null;

-- A captured change. Two tables by turns, so that what is delivered goes by TRUNCATE: nothing is deleted row by row,
-- and nothing is left for vacuum. Without an index, which would cost every write of the application (benchmarks/README).
create table if not exists wal_tracker.outbox (
    -- Where the WAL stood when the row was captured. Rises within a transaction; a transaction that waited for another
    -- one's row lock captures above all of that other one's. So it orders transactions by their last.
    lsn pg_lsn not null,
    -- Of the transaction, epoch included.
    xid xid8 not null,
    -- statement_timestamp()
    at timestamptz not null,
    -- wal_tracker.tracked.id; 0 for an event of wal_tracker.emit.
    relation integer not null,
    -- INSERT, UPDATE, DELETE, TRUNCATE, or EVENT.
    op text not null,
    -- session_user
    actor text not null,
    -- What wal_tracker.set_context was given in this transaction, if it was.
    context text,
    -- The rows by column name, without ignored columns; `new` of an EVENT is the event.
    old json,
    new json
);
create table if not exists wal_tracker.outbox_0 () inherits (wal_tracker.outbox);
create table if not exists wal_tracker.outbox_1 () inherits (wal_tracker.outbox);

-- The tables with a trigger of ours, by the number their capture functions carry. The name is the last one known.
create table if not exists wal_tracker.tracked (
    id integer primary key generated always as identity,
    -- Checked at the end of the transaction: after a restore the numbers of several tables change places.
    relation oid not null unique deferrable initially deferred,
    schema_name text not null,
    table_name text not null,
    -- The numbers of the ignored columns it has, by name (pg_attribute.attnum): what they are called may change.
    ignored jsonb not null default jsonb_build_object()
);

-- Transactions that were found committed, numbered in the order in which they are handed on; one row for each outbox
-- table a transaction has rows in. They go when every destination has everything of them.
create table if not exists wal_tracker.claim (
    position pg_lsn not null,
    turn smallint not null,
    xid xid8 not null,
    first_tid tid not null,
    last_tid tid not null,
    rows bigint not null,
    bytes bigint not null,
    primary key (position, turn)
);

-- Who reads, and how far: one row.
create table if not exists wal_tracker.reader (
    is_one boolean primary key default true check (is_one),
    -- The server these transaction ids belong to (pg_control_system).
    system_identifier text not null,
    -- wal_tracker.outbox's: an upgrade of the server in place keeps it, a restore from a dump does not.
    outbox oid not null,
    -- What is visible in it has been claimed.
    snapshot pg_snapshot not null,
    -- The highest position given to a transaction.
    position pg_lsn not null,
    -- The process that reads, and until when nobody else may.
    holder text,
    lease_until timestamptz
);

-- Captures that failed while the application's write went through (capture: tolerant).
create table if not exists wal_tracker.capture_failure (
    -- Not by a sequence: the application's lastval() is left alone.
    id uuid primary key default gen_random_uuid(),
    at timestamptz not null,
    xid xid8 not null,
    relation integer not null,
    op text not null,
    sqlstate text not null
);

-- A change of mode under way (at most one): what divides the two sources, stored before either side moves.
create table if not exists wal_tracker.switch (
    is_one boolean primary key default true check (is_one),
    to_mode text not null check (to_mode in ('wal', 'trigger')),
    -- The slot that was made for it, or is read for the last time.
    slot text,
    -- The transaction that removed or made the triggers: what commits before it comes by the old side, the rest by the
    -- new one. And where it ends in the WAL, once it has been read there.
    xid xid8,
    lsn pg_lsn,
    -- To WAL: what is visible in it comes by the outbox; events of wal_tracker.emit are written there until the end.
    snapshot pg_snapshot
);

-- So that `wal_tracker drop` knows them.
comment on sequence wal_tracker.signal is 'made by wal_tracker';
comment on table wal_tracker.outbox is 'made by wal_tracker';
comment on table wal_tracker.outbox_0 is 'made by wal_tracker';
comment on table wal_tracker.outbox_1 is 'made by wal_tracker';
comment on table wal_tracker.tracked is 'made by wal_tracker';
comment on table wal_tracker.claim is 'made by wal_tracker';
comment on table wal_tracker.reader is 'made by wal_tracker';
comment on table wal_tracker.capture_failure is 'made by wal_tracker';
comment on table wal_tracker.switch is 'made by wal_tracker';

-- Whatever the database grants by default (alter default privileges), and to whom: captured rows are nobody else's. But
-- what `wal_tracker create-role` has granted stays, where only some of this was missing.
do $revoke$
declare
    granted record;
begin
    for granted in
        select distinct
               case relkind when 'S' then 'sequence ' else 'table ' end || class.oid::regclass as object,
               case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end as grantee
          from pg_class as class
         cross join aclexplode(relacl)
         where relnamespace = 'wal_tracker'::regnamespace
           and relname in (
               'signal', 'outbox', 'outbox_0', 'outbox_1', 'tracked', 'tracked_id_seq', 'claim', 'reader',
               'capture_failure', 'switch'
           )
           and grantee <> relowner
           and shobj_description(grantee, 'pg_authid') is distinct from 'made by wal_tracker'
    loop
        execute 'revoke all on ' || granted.object || ' from ' || granted.grantee;
    end loop;
end
$revoke$;
