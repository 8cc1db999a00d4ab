-- Captured changes that are not durable everywhere yet, how many captures have failed, and who reads the outbox now.
-- Run by: the role that sets up. Locks: none. Safe to repeat. Reads the whole outbox.
select (
           select count(*)
             from wal_tracker.outbox
            where not exists (select from wal_tracker.reader where pg_visible_in_snapshot(outbox.xid, snapshot))
               or xid in (select claim.xid from wal_tracker.claim)
       ),
       (select count(*) from wal_tracker.capture_failure),
       (select holder from wal_tracker.reader where lease_until > clock_timestamp())
