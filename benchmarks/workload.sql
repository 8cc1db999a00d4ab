-- The table of every benchmark, and functions that fill it the same way for the same seed.

create table orders (
    id bigint primary key,
    customer text not null,
    status text not null,
    note text not null,
    placed_at timestamptz not null,
    updated_at timestamptz not null,
    details jsonb not null,
    amount numeric(12, 2) not null,
    paid boolean not null,
    token uuid not null,
    quantity integer not null
);

create publication benchmark for table orders;

-- A value that depends on nothing but its arguments; not negative.
create function drawn(id bigint, seed bigint) returns bigint immutable strict parallel safe
return hashint8extended(id, seed) & 9223372036854775807;

create function insert_orders(first bigint, count bigint, seed bigint) returns void language sql
begin atomic
    insert into orders
    select
        id,
        'customer ' || r % 50000,
        (array['new', 'waiting', 'paid', 'packed'])[1 + r % 4],
        repeat(md5(r::text), 2),
        timestamptz '2026-01-01 00:00:00Z' + r % 2592000000000 * interval '1 microsecond',
        timestamptz '2026-02-01 00:00:00Z' + r % 2592000000000 * interval '1 microsecond',
        jsonb_build_object('channel', 'web', 'campaign', r % 1000, 'items', jsonb_build_array(r % 7, r % 11, r % 13)),
        (r % 1000000)::numeric / 100,
        r % 2 = 0,
        md5(r::text)::uuid,
        (r % 10)::integer
    from
        generate_series(first, first + count - 1) as id,
        lateral drawn(id, seed) as r;
end;

create function update_orders(first bigint, count bigint, seed bigint) returns void language sql
begin atomic
    update orders
    set
        status = (array['paid', 'packed', 'sent', 'returned'])[1 + drawn(id, seed + 1) % 4],
        updated_at = updated_at + interval '1 hour 1 microsecond',
        quantity = quantity + 1
    where id between first and first + count - 1;
end;

-- Transactions by turns: one inserts rows, the next updates these same rows.
create procedure write_orders(transactions bigint, fewest bigint, most bigint, seed bigint) language plpgsql as $$
declare
    first bigint;
    size bigint;
begin
    select coalesce(max(id), 0) + 1 into first from orders;
    for pair in 1 .. transactions / 2 loop
        size := fewest + drawn(pair, seed) % (most - fewest + 1);
        perform insert_orders(first, size, seed);
        commit;
        perform update_orders(first, size, seed);
        commit;
        first := first + size;
    end loop;
end;
$$;
