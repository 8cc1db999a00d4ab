"""The shop's database: made from sql/demo/shop.sql on a server of the demo's own."""

from __future__ import annotations

from contextlib import closing
from importlib.resources import files

import psycopg2

from wal_tracker.demo.server import EmbeddedPostgres

DATABASE = "shop"


def open_shop(server: EmbeddedPostgres) -> str:
    """
    Create the database, its tables and the rows it opens with.

    Args:
        server: A running server without such a database.

    Returns:
        How to reach it; with the password, so not for printing.
    """
    with closing(psycopg2.connect(server.dsn())) as connection:
        # CREATE DATABASE does not run inside a transaction.
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"create database {DATABASE}")
    dsn = server.dsn(DATABASE)
    statements = files("wal_tracker.sql").joinpath("demo/shop.sql").read_text("utf-8")
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statements)
    return dsn
