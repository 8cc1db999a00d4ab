"""Every statement we run or hand to an operator, one a file; read as the package `wal_tracker.sql`. See README.md beside this."""
