"""The destinations that come with wal_tracker; found through the entry-point group, like anybody's."""
