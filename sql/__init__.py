"""Every statement we run or hand to an operator, read as the package `wal_tracker.sql`. See README.md beside this."""
