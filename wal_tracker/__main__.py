"""``python -m wal_tracker``."""

from __future__ import annotations

from wal_tracker.cli.main import main

main()
