"""Turns PostgreSQL row changes into events that mean something, and delivers them."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("wal_tracker")
