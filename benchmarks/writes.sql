-- The table that bench_writes.py writes to, and triggers that others put on such a table.
-- Eleven columns, two of them jsonb, two CHECKs, about a kilobyte of row.

create role app login in role pg_read_server_files;
create role installer;
grant execute on function pg_read_file(text) to app;
create schema bench;
grant usage on schema bench to app, installer;

create table bench.items (
    id bigserial primary key,
    name text not null,
    summary text,
    state text not null,
    urgency text not null,
    team text not null,
    price numeric(10, 2),
    placed_at timestamptz default current_timestamp,
    changed_at timestamptz default current_timestamp,
    details jsonb,
    extras jsonb,
    constraint state_known check (state in ('open', 'waiting', 'done', 'dropped', 'broken')),
    constraint urgency_known check (urgency in ('low', 'medium', 'high', 'urgent'))
);

-- A value that depends on nothing but its arguments; not negative.
create function bench.drawn(number bigint, salt bigint) returns bigint immutable strict parallel safe
return hashint8extended(number, salt) & 9223372036854775807;

-- Letters that look random.
create function bench.word(number bigint, salt bigint, length integer) returns text immutable strict parallel safe
return translate(
    left(encode(sha512(convert_to(number || '.' || salt, 'UTF8')), 'base64'), length), E'+/\n', 'xyz'
);

-- A document of some 330 characters, nested; its words do not repeat, so little of it can be compressed.
create function bench.document(number bigint, salt bigint) returns jsonb immutable strict parallel safe
return jsonb_build_object(
    'delivery', jsonb_build_object(
        'labels', jsonb_build_array(
            bench.word(number, salt, 5), bench.word(number, salt + 1, 5), bench.word(number, salt + 2, 5)
        ),
        'channel', bench.word(number, salt + 3, 8),
        'edition', bench.drawn(number, salt) % 10,
        'is_checked', bench.drawn(number, salt) % 2 = 0,
        'score', (bench.drawn(number, salt + 4) % 100000000000000000)::numeric / 1000000000000000
    ),
    'placement', jsonb_build_object(
        'area', (array['sales', 'support', 'finance'])[1 + bench.drawn(number, salt) % 3],
        'difficulty', 1 + bench.drawn(number, salt) % 5,
        'components', jsonb_build_array(bench.word(number, salt + 5, 8), bench.word(number, salt + 6, 8)),
        'settings', jsonb_build_object(
            'notify_team', bench.drawn(number, salt) % 2 = 0, 'is_approved', bench.drawn(number, salt) % 3 = 0
        )
    )
);

-- What a statement of 200 rows inserts; the first of them is what statements of one row insert.
create table bench.sample as
select
    number,
    bench.word(number, 1, 20) as name,
    bench.word(number, 2, 50) || bench.word(number, 3, 50) as summary,
    (array['open', 'waiting', 'done', 'dropped', 'broken'])[1 + bench.drawn(number, 1) % 5] as state,
    (array['low', 'medium', 'high', 'urgent'])[1 + bench.drawn(number, 2) % 4] as urgency,
    (array['sales', 'marketing', 'engineering', 'support', 'finance'])[1 + bench.drawn(number, 3) % 5] as team,
    ((bench.drawn(number, 4) % 100000)::numeric / 100)::numeric(10, 2) as price,
    bench.document(number, 10) as details,
    bench.document(number, 20) as extras
from generate_series(1, 200) as number;

-- A trigger that does nothing: what calling plpgsql costs.
create function bench.nothing() returns trigger language plpgsql as $$
begin
    return null;
end;
$$;

-- The shape of the trigger that pg_track_events 0.0.7 installs, written anew from its description: whole rows as
-- JSON, sorted columns, cast to jsonb; an outbox with a primary key, an enum, three CHECKs and a second index; the
-- owner's rights without a search_path of its own, and an exception block around everything.
create type bench.kind as enum ('insert', 'update', 'delete');
create table bench.log (
    id bigserial primary key,
    kind bench.kind not null,
    of_table text not null,
    logged_at timestamptz default clock_timestamp(),
    attempts integer default 0,
    failure text,
    attempted_at timestamptz,
    due_at timestamptz not null default clock_timestamp(),
    before jsonb,
    after jsonb,
    more jsonb,
    check ((kind = 'update' and before is not null and after is not null) or kind <> 'update'),
    check ((kind = 'insert' and before is null and after is not null) or kind <> 'insert'),
    check ((kind = 'delete' and before is not null and after is null) or kind <> 'delete')
);
create index on bench.log (due_at);

create function bench.shipped() returns trigger language plpgsql security definer as $$
begin
    if tg_op = 'INSERT' then
        insert into bench.log (kind, of_table, before, after) values ('insert', tg_table_name, null, json_build_object(
            'changed_at', new.changed_at, 'details', new.details, 'extras', new.extras, 'id', new.id, 'name', new.name,
            'placed_at', new.placed_at, 'price', new.price, 'state', new.state, 'summary', new.summary,
            'team', new.team, 'urgency', new.urgency
        )::jsonb);
    elsif tg_op = 'UPDATE' then
        insert into bench.log (kind, of_table, before, after) values ('update', tg_table_name, json_build_object(
            'changed_at', old.changed_at, 'details', old.details, 'extras', old.extras, 'id', old.id, 'name', old.name,
            'placed_at', old.placed_at, 'price', old.price, 'state', old.state, 'summary', old.summary,
            'team', old.team, 'urgency', old.urgency
        )::jsonb, json_build_object(
            'changed_at', new.changed_at, 'details', new.details, 'extras', new.extras, 'id', new.id, 'name', new.name,
            'placed_at', new.placed_at, 'price', new.price, 'state', new.state, 'summary', new.summary,
            'team', new.team, 'urgency', new.urgency
        )::jsonb);
    elsif tg_op = 'DELETE' then
        insert into bench.log (kind, of_table, before, after) values ('delete', tg_table_name, json_build_object(
            'changed_at', old.changed_at, 'details', old.details, 'extras', old.extras, 'id', old.id, 'name', old.name,
            'placed_at', old.placed_at, 'price', old.price, 'state', old.state, 'summary', old.summary,
            'team', old.team, 'urgency', old.urgency
        )::jsonb, null);
    end if;
    return null;
exception when others then
    raise warning 'not logged: %', sqlerrm;
    return null;
end;
$$;

-- The application writes; what tracks it belongs to somebody else.
grant select, insert, update, delete on bench.items, bench.sample to app;
grant usage on sequence bench.items_id_seq to app;
alter table bench.log owner to installer;
alter function bench.shipped owner to installer;

create publication benchmark for table bench.items;
