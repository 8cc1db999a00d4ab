"""`wal_tracker demo`: a throw-away PostgreSQL, a small shop at work in it, and the real pipeline over its WAL."""
