"""
The shop at work: several writers, each with a connection of its own, doing what customers and staff do.

Every act is one transaction. It returns the names of the events its commit must lead to, worked out from what it
wrote and not from the rules; the `Ledger` keeps them once the server has acknowledged the commit. What the ledger
holds at the end is what the pipeline must have delivered, no more and no less.

Some transactions fail, as they do in life: stock runs out (a CHECK), a coupon was used before (a unique index, met
inside a savepoint), two customers meet (a deadlock), somebody changes their mind (ROLLBACK).
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.errors

Cursor = Any
"""A psycopg2 cursor inside the act's transaction."""

FIRST_NAMES = ("Amélie", "Bjarne", "Chen", "Dilnoza", "Emeka", "Farah", "Giulia", "Hana", "Iñaki", "Jürgen", "Lena")
LAST_NAMES = ("Adeyemi", "Bianchi", "Castro", "Dvořák", "Eriksen", "Fischer", "García", "Hansen", "Ito", "Jones")
STAFF = ("maria", "tom")
CHANNELS = ("web", "web", "ios", "android")
REFUSALS = ("insufficient_funds", "expired", "suspected_fraud")
SEARCHES = ("green", "kettle", "gift", "cup", "earl grey", "whisk", "teapot", "decaf")

# How long a writer may take over the transaction it is in when the shop closes.
CLOSING_TIMEOUT_S = 10.0


class Declined(Exception):
    """The act rolls its transaction back on purpose."""


class Ledger:
    """What was committed and what must come of it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.committed = 0
        self.rolled_back = 0
        self.expected: Counter[str] = Counter()

    def commit(self, events: Sequence[str]) -> None:
        """A transaction is committed (the server has said so) and must lead to `events`."""
        with self._lock:
            self.committed += 1
            self.expected.update(events)

    def roll_back(self) -> None:
        """A transaction that had written something was rolled back."""
        with self._lock:
            self.rolled_back += 1


class Workload:
    """Keeps the shop busy between `start` and `stop`."""

    def __init__(self, dsn: str, *, writers: int, rate: float, seed: int, on_failure: Callable[[], None]) -> None:
        """
        Args:
            dsn: The shop's database.
            writers: How many connections write at the same time.
            rate: Transactions a second, all writers together; arrivals are random (Poisson).
            seed: Of what each writer chooses to do.
            on_failure: Called, on the writer's thread, when a writer ends before it was asked to; see `failure`.
        """
        self.ledger = Ledger()
        self.failure: psycopg2.Error | None = None
        self._dsn = dsn
        self._on_failure = on_failure
        self._rate = rate / writers
        self._closed = threading.Event()
        # Daemons: an interpreter that has to leave at once does not wait for them.
        self._threads = [
            threading.Thread(target=self._write, args=(number, seed), name=f"shop writer {number}", daemon=True)
            for number in range(1, writers + 1)
        ]

    def start(self) -> None:
        """Open the shop."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Close the shop; returns when every writer has ended the transaction it was in. Idempotent."""
        self._closed.set()
        deadline = time.monotonic() + CLOSING_TIMEOUT_S
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _write(self, number: int, seed: int) -> None:
        try:
            with closing(psycopg2.connect(self._dsn, application_name=f"shop writer {number}")) as connection:
                self._serve(connection, random.Random(f"{seed}/{number}"))
        except psycopg2.Error as error:
            self.failure = error
            self._on_failure()

    def _serve(self, connection: Any, chance: random.Random) -> None:
        acts, weights = [act for act, _ in ACTS], [weight for _, weight in ACTS]
        with connection, connection.cursor() as cursor:
            cursor.execute("select setseed(%s)", (chance.random(),))
        due = time.monotonic()
        while True:
            due += chance.expovariate(self._rate)
            if self._closed.wait(max(0.0, due - time.monotonic())):
                return
            # An act may find nobody to do it for (no cart to abandon); then the next one is tried.
            while not self._closed.is_set() and not self._perform(connection, chance.choices(acts, weights)[0], chance):
                pass

    def _perform(self, connection: Any, act: Act, chance: random.Random) -> bool:
        """One transaction; False where there was nothing to do."""
        try:
            with connection.cursor() as cursor:
                events = act(cursor, chance)
                if events is None:
                    connection.rollback()
                    return False
            connection.commit()
        except (Declined, psycopg2.IntegrityError, psycopg2.errors.DeadlockDetected):
            connection.rollback()
            self.ledger.roll_back()
        else:
            self.ledger.commit(events)
        return True


Act = Callable[[Cursor, random.Random], "list[str] | None"]
"""What happens in one transaction: the events it must lead to once committed, or None where nobody is there for it."""


# Customers ---------------------------------------------------------------------------------------


def sign_up(cursor: Cursor, chance: random.Random) -> list[str] | None:
    """Somebody new."""
    first, last = chance.choice(FIRST_NAMES), chance.choice(LAST_NAMES)
    cursor.execute(
        "insert into users (email, name, hashed_password, plan, preferences) values (%s, %s, %s, %s, %s)",
        (
            f"{first}.{last}.{chance.randrange(10_000)}@example.com".lower(),
            f"{first} {last}",
            f"{chance.getrandbits(128):032x}",
            chance.choice(("free", "free", "pro")),
            json.dumps({"newsletter": chance.random() < 0.2, "language": chance.choice(("en", "de", "ja"))}),
        ),
    )
    return ["user_signed_up"]


def search(cursor: Cursor, chance: random.Random) -> list[str] | None:
    """A customer looks for something: an event without a table."""
    user = _somebody(cursor)
    if user is None:
        return None
    query = chance.choice(SEARCHES)
    cursor.execute("select count(*) from products where name ilike %s or %s = any(tags)", (f"%{query}%", query))
    (found,) = cursor.fetchone()
    event = {"event": "product_searched", "distinct_id": str(user), "properties": {"query": query, "found": found}}
    cursor.execute("select wal_tracker.emit(%s)", (json.dumps(event),))
    return ["product_searched"]


def edit_profile(cursor: Cursor, chance: random.Random) -> list[str] | None:
    """A customer changes one thing about themselves; a new name leads to no event."""
    cursor.execute("select id, plan, preferences from users order by random() limit 1 for no key update skip locked")
    found = cursor.fetchone()
    if found is None:
        return None
    user, plan, preferences = found
    what = chance.choice(("email", "plan", "newsletter", "name"))
    if what == "email":
        address = f"customer.{user}.{chance.getrandbits(32):08x}@example.net"
        cursor.execute("update users set email = %s where id = %s", (address, user))
        return ["email_changed"]
    if what == "plan":
        other = "free" if plan == "pro" else "pro"
        cursor.execute("update users set plan = %s where id = %s", (other, user))
        return ["plan_upgraded" if other == "pro" else "plan_downgraded"]
    if what == "newsletter":
        cursor.execute(
            """update users set preferences = preferences || '{"newsletter": true}' where id = %s""", (user,)
        )
        return [] if preferences["newsletter"] else ["newsletter_joined"]
    name = f"{chance.choice(FIRST_NAMES)} {chance.choice(LAST_NAMES)}"
    cursor.execute("update users set name = %s where id = %s", (name, user))
    return []


def fill_cart(cursor: Cursor, chance: random.Random) -> list[str] | None:
    """A customer puts one to three products into their cart."""
    user = _somebody(cursor)
    if user is None:
        return None
    _say(cursor, user_id=user, channel=chance.choice(CHANNELS))
    return _add_to_cart(cursor, chance, user)


def change_mind(cursor: Cursor, chance: random.Random) -> list[str] | None:
    """As `fill_cart`, but it is all taken back: nothing of it may ever be seen."""
    if fill_cart(cursor, chance) is None:
        return None
    raise Declined


def check_out(cursor: Cursor, chance: random.Random) -> list[str] | None:
    """A customer pays for a cart: order, stock and payment in one transaction. The card may be refused."""
    cursor.execute(
        "select id, user_id, total from orders where status = 'cart' and total > 0"
        " order by random() limit 1 for update skip locked"
    )
    found = cursor.fetchone()
    if found is None:
        return None
    order, user, total = found
    _say(cursor, user_id=user, channel=chance.choice(CHANNELS))
    if chance.random() < 0.3:
        total = _redeem_coupon(cursor, order, total)
    method = chance.choice(("card", "card", "paypal", "transfer"))
    if chance.random() < 0.15:
        cursor.execute(
            "insert into payments (order_id, amount, method, status, gateway) values (%s, %s, %s, 'failed', %s)",
            (order, total, method, json.dumps({"code": chance.choice(REFUSALS)})),
        )
        return ["payment_failed"]
    cursor.execute("update orders set status = 'placed', placed_at = now() where id = %s", (order,))
    events = ["order_placed", *_take_from_stock(cursor, order)]
    cursor.execute(
        "insert into payments (order_id, amount, method, status) values (%s, %s, %s, 'authorised')",
        (order, total, method),
    )
    return [*events, "payment_authorised"]


def abandon_cart(cursor: Cursor, _: random.Random) -> list[str] | None:
    """A cart is given up; its items go with it."""
    cursor.execute(
        "select o.id from orders o where status = 'cart' and not exists (select from payments where order_id = o.id)"
        " order by random() limit 1 for update skip locked"
    )
    found = cursor.fetchone()
    if found is None:
        return None
    cursor.execute("delete from orders where id = %s", found)
    return ["cart_abandoned"]


def close_account(cursor: Cursor, _: random.Random) -> list[str] | None:
    """A customer who never bought anything leaves, and their carts with them."""
    cursor.execute(
        "select u.id from users u where not exists ("
        "  select from orders o left join payments p on p.order_id = o.id"
        "   where o.user_id = u.id and (o.status <> 'cart' or p.id is not null))"
        " order by random() limit 1 for update skip locked"
    )
    found = cursor.fetchone()
    if found is None:
        return None
    cursor.execute("delete from orders where user_id = %s and status = 'cart'", found)
    carts: int = cursor.rowcount
    cursor.execute("delete from users where id = %s", found)
    return [*["cart_abandoned"] * carts, "account_closed"]


# Staff -------------------------------------------------------------------------------------------


def capture(cursor: Cursor, _: random.Random) -> list[str] | None:
    """The bank pays out: the order is paid."""
    found = _payment(cursor, "authorised", "placed")
    if found is None:
        return None
    payment, order, user = found
    _say(cursor, user_id=user, channel="billing")
    cursor.execute("update payments set status = 'captured' where id = %s", (payment,))
    cursor.execute("update orders set status = 'paid' where id = %s", (order,))
    return ["payment_captured", "order_paid"]


def ship(cursor: Cursor, _: random.Random) -> list[str] | None:
    """A paid order leaves the house."""
    cursor.execute(
        "select id, user_id from orders where status = 'paid' order by placed_at limit 1 for update skip locked"
    )
    found = cursor.fetchone()
    if found is None:
        return None
    order, user = found
    _say(cursor, user_id=user, channel="warehouse")
    cursor.execute("update orders set status = 'shipped' where id = %s", (order,))
    return ["order_shipped"]


def refund(cursor: Cursor, chance: random.Random) -> list[str] | None:
    """A paid order comes back: money to the customer, goods to the shelf."""
    found = _payment(cursor, "captured", chance.choice(("paid", "shipped")))
    if found is None:
        return None
    payment, order, user = found
    _say(cursor, user_id=user, channel="support")
    cursor.execute("update payments set status = 'refunded' where id = %s", (payment,))
    cursor.execute("update orders set status = 'refunded' where id = %s", (order,))
    events = ["payment_refunded", "order_refunded"]
    for product, quantity in _items(cursor, order):
        events += _put_on_shelf(cursor, product, quantity)
    return events


def restock(cursor: Cursor, chance: random.Random) -> list[str] | None:
    """A product that ran out is delivered."""
    cursor.execute("select id from products where stock = 0 order by random() limit 1 for update skip locked")
    found = cursor.fetchone()
    if found is None:
        return None
    _say(cursor, staff=chance.choice(STAFF))
    return _put_on_shelf(cursor, found[0], chance.randrange(4, 13))


def reprice(cursor: Cursor, chance: random.Random) -> list[str] | None:
    """A product becomes cheaper or dearer."""
    cursor.execute("select id, price from products order by random() limit 1 for no key update skip locked")
    found = cursor.fetchone()
    if found is None:
        return None
    product, before = found
    _say(cursor, staff=chance.choice(STAFF))
    cursor.execute(
        "update products set price = round(price * %s::numeric, 2) where id = %s returning price",
        (str(chance.choice((0.9, 0.95, 1.05, 1.1))), product),
    )
    (after,) = cursor.fetchone()
    return [] if after == before else ["price_changed"]


ACTS: Sequence[tuple[Act, int]] = (
    (sign_up, 10),
    (search, 10),
    (edit_profile, 8),
    (fill_cart, 22),
    (change_mind, 6),
    (check_out, 20),
    (abandon_cart, 4),
    (close_account, 2),
    (capture, 14),
    (ship, 9),
    (refund, 3),
    (restock, 6),
    (reprice, 3),
)
"""Every act, and how often it happens compared with the others."""


# What acts are made of ---------------------------------------------------------------------------


def _say(cursor: Cursor, **context: object) -> None:
    """Tell wal_tracker about this transaction: `ctx` in the rules."""
    cursor.execute("select wal_tracker.set_context(%s)", (json.dumps(context),))


def _somebody(cursor: Cursor) -> int | None:
    """A customer, who stays one for as long as the transaction lasts."""
    cursor.execute("select id from users order by random() limit 1 for key share skip locked")
    found = cursor.fetchone()
    return found[0] if found else None


def _add_to_cart(cursor: Cursor, chance: random.Random, user: int) -> list[str]:
    cursor.execute(
        "select id from orders where user_id = %s and status = 'cart' order by id limit 1 for update skip locked",
        (user,),
    )
    found = cursor.fetchone()
    if found is None:
        cursor.execute("insert into orders (user_id) values (%s) returning id", (user,))
        found = cursor.fetchone()
    cursor.execute(
        "insert into order_items (order_id, product_id, quantity, unit_price)"
        " select %s, id, 1 + floor(random() * 2)::int, price from products order by random() limit %s"
        " on conflict do nothing",
        (found[0], chance.randrange(1, 4)),
    )
    added: int = cursor.rowcount
    cursor.execute(
        "update orders set total = (select sum(quantity * unit_price) from order_items where order_id = orders.id)"
        " where id = %s",
        found,
    )
    return ["product_added_to_cart"] * added


def _redeem_coupon(cursor: Cursor, order: int, total: Any) -> Any:
    """Take ten percent off, once for each customer; a second time fails and only that much is taken back."""
    cursor.execute("savepoint coupon")
    try:
        cursor.execute(
            "update orders set coupon = 'WELCOME', total = round(total * 0.9, 2) where id = %s and coupon is null"
            " returning total",
            (order,),
        )
    except psycopg2.errors.UniqueViolation:
        cursor.execute("rollback to savepoint coupon")
        return total
    discounted = cursor.fetchone()
    cursor.execute("release savepoint coupon")
    return discounted[0] if discounted else total


def _items(cursor: Cursor, order: int) -> list[tuple[int, int]]:
    """Products and quantities, by product, so that two orders lock the shelf in the same direction."""
    cursor.execute("select product_id, quantity from order_items where order_id = %s order by product_id", (order,))
    items: list[tuple[int, int]] = cursor.fetchall()
    return items


def _take_from_stock(cursor: Cursor, order: int) -> list[str]:
    """Raises CheckViolation where there is not enough."""
    events = []
    for product, quantity in _items(cursor, order):
        cursor.execute("update products set stock = stock - %s where id = %s returning stock", (quantity, product))
        if cursor.fetchone() == (0,):
            events.append("product_sold_out")
    return events


def _put_on_shelf(cursor: Cursor, product: int, quantity: int) -> list[str]:
    cursor.execute("update products set stock = stock + %s where id = %s returning stock", (quantity, product))
    return ["product_back_in_stock"] if cursor.fetchone() == (quantity,) else []


def _payment(cursor: Cursor, payment_status: str, order_status: str) -> tuple[str, int, int] | None:
    """A payment in `payment_status` of an order in `order_status`, both locked: (payment, order, user)."""
    cursor.execute(
        "select p.id, o.id, o.user_id from payments p join orders o on o.id = p.order_id"
        " where p.status = %s and o.status = %s order by p.created_at limit 1 for update of p, o skip locked",
        (payment_status, order_status),
    )
    found: tuple[str, int, int] | None = cursor.fetchone()
    return found
