-- The shop of `wal_tracker demo`: five tables, and the rows it opens with.
-- Run by: the demo, in a database of its own. Not safe to repeat.

create type order_status as enum ('cart', 'placed', 'paid', 'shipped', 'refunded');
create type payment_status as enum ('authorised', 'captured', 'failed', 'refunded');

create table users (
    id              bigint generated always as identity primary key,
    email           text not null unique check (email like '%_@_%'),
    name            text not null check (name <> ''),
    hashed_password text not null,
    plan            text not null default 'free' check (plan in ('free', 'pro')),
    preferences     jsonb not null default '{"newsletter": false}',
    created_at      timestamptz not null default now()
);

create table products (
    id    int generated always as identity primary key,
    sku   text not null unique,
    name  text not null,
    price numeric(10, 2) not null check (price > 0),
    stock int not null check (stock >= 0),
    tags  text[] not null default '{}'
);

create table orders (
    id         bigint generated always as identity primary key,
    user_id    bigint not null references users,
    status     order_status not null default 'cart',
    total      numeric(10, 2) not null default 0 check (total >= 0),
    coupon     text,
    created_at timestamptz not null default now(),
    placed_at  timestamptz,
    check ((status = 'cart') = (placed_at is null))
);
create index on orders (user_id);
create unique index on orders (user_id, coupon) where coupon is not null;

create table order_items (
    order_id   bigint not null references orders on delete cascade,
    product_id int not null references products,
    quantity   int not null check (quantity > 0),
    unit_price numeric(10, 2) not null check (unit_price > 0),
    primary key (order_id, product_id)
);

create table payments (
    id         uuid primary key default gen_random_uuid(),
    order_id   bigint not null references orders,
    amount     numeric(10, 2) not null check (amount > 0),
    method     text not null check (method in ('card', 'paypal', 'transfer')),
    status     payment_status not null,
    gateway    jsonb,
    created_at timestamptz not null default now()
);
create index on payments (order_id);

-- The rules compare with the row as it was, or tell of rows that are gone. By default an UPDATE or DELETE carries
-- only the primary key of the old row; this makes the server send all of it.
alter table users replica identity full;
alter table products replica identity full;
alter table orders replica identity full;
alter table payments replica identity full;

insert into users (email, name, hashed_password, plan, preferences) values
    ('ada@example.org', 'Ada Lovelace', 'x', 'pro', '{"newsletter": true}'),
    ('alan@example.org', 'Alan Turing', 'x', 'free', '{"newsletter": false}'),
    ('barbara@example.org', 'Barbara Liskov', 'x', 'pro', '{"newsletter": false}'),
    ('donald@example.org', 'Donald Knuth', 'x', 'free', '{"newsletter": false}'),
    ('edsger@example.org', 'Edsger Dijkstra', 'x', 'free', '{"newsletter": true}'),
    ('frances@example.org', 'Frances Allen', 'x', 'free', '{"newsletter": false}'),
    ('grace@example.org', 'Grace Hopper', 'x', 'pro', '{"newsletter": true}'),
    ('jim@example.org', 'Jim Gray', 'x', 'free', '{"newsletter": false}'),
    ('leslie@example.org', 'Leslie Lamport', 'x', 'free', '{"newsletter": false}'),
    ('margaret@example.org', 'Margaret Hamilton', 'x', 'pro', '{"newsletter": false}');

insert into products (sku, name, price, stock, tags) values
    ('TEA-ASSAM', 'Assam, loose leaf', 9.50, 24, '{tea,black}'),
    ('TEA-SENCHA', 'Sencha', 12.90, 18, '{tea,green}'),
    ('TEA-EARL', 'Earl Grey', 8.40, 30, '{tea,black,flavoured}'),
    ('TEA-ROOIBOS', 'Rooibos', 6.80, 20, '{tea,herbal}'),
    ('POT-GLASS', 'Glass teapot', 34.00, 2, '{pot}'),
    ('POT-KYUSU', 'Kyusu', 58.00, 2, '{pot,handmade}'),
    ('CUP-SET', 'Set of four cups', 27.50, 4, '{cup}'),
    ('CUP-MOON', 'Moon cup', 19.00, 3, '{cup,handmade}'),
    ('KETTLE-1', 'Gooseneck kettle', 79.00, 1, '{kettle}'),
    ('TIN-SMALL', 'Tin, 100 g', 4.20, 40, '{tin}'),
    ('STRAINER', 'Strainer', 7.10, 15, '{tool}'),
    ('WHISK', 'Bamboo whisk', 14.60, 3, '{tool,handmade}');
