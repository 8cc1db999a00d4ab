-- The table of the `clickhouse` destination, on one server or in ClickHouse Cloud.
-- Run by: the user of the destination where `create: true` is set, once in the life of a process. An operator may run it
-- beforehand with the name filled in, on a cluster with ReplicatedReplacingMergeTree. Locks: none. Safe to repeat.
-- What comes twice in the same batch is dropped by its token, within the window; in another batch it is merged away, and
-- `final` reads each event once. ClickHouse calls no fsync of its own accord: after a power cut what it took would be gone.
create table if not exists {table} (
    event_id    UUID,
    event       LowCardinality(String),
    distinct_id Nullable(String),
    occurred_at DateTime64(6, 'UTC'),
    commit_lsn  UInt64,
    source      String,
    properties  String,
    received_at DateTime64(3, 'UTC') default now64(3)
)
engine = ReplacingMergeTree
order by (event, toDate(occurred_at), event_id)
settings non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1
