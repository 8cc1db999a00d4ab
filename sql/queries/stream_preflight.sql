-- What must be known before a stream is opened: its time-out, the next transaction id, whether the publication is there.
-- Run by: whoever reads the slot (no privilege needed). Locks: none. Safe to repeat.
select (select setting::integer from pg_settings where name = 'wal_sender_timeout'),
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       exists (select from pg_publication where pubname = %(publication)s)
