-- Every statement of the state store, for SQLite and PostgreSQL alike; parameters are written :name.
-- Run by: wal_tracker, each inside a transaction of its own making.

-- read_version --
select version from schema_version

-- read_source --
select system_identifier, timeline, database, slot from source

-- write_source --
insert into source (only_row, system_identifier, timeline, database, slot)
values (1, :system_identifier, :timeline, :database, :slot)
on conflict (only_row) do update
   set system_identifier = excluded.system_identifier,
       timeline = excluded.timeline,
       database = excluded.database,
       slot = excluded.slot

-- read_positions --
select destination, lsn, mark, spool from position order by destination

-- write_position --
insert into position (destination, lsn, mark, spool)
values (:destination, :lsn, :mark, :spool)
on conflict (destination) do update
   set lsn = excluded.lsn, mark = excluded.mark, spool = excluded.spool

-- rebase_positions --
-- What each destination asked to be kept stays: it says how far the destination itself is.
update position set lsn = :lsn

-- add_dead_letter --
-- The same letter again is the same letter; one that was sent again and refused again is dead again.
insert into dead_letter (id, destination, kind, status, rule, event, relation, commit_lsn, commit_time, reason, payload,
                         created_at)
values (:id, :destination, :kind, 'dead', :rule, :event, :relation, :commit_lsn, :commit_time, :reason, :payload,
        :created_at)
on conflict (id, destination) do update
   set status = 'dead', reason = excluded.reason
 where dead_letter.status <> 'dead'

-- list_dead_letters --
select id, destination, kind, rule, event, relation, commit_lsn, commit_time, reason, payload, created_at, status
  from dead_letter
 where (:status is null or status = :status)
   and (:destination is null or destination = :destination)
 order by seq
 limit :max_letters

-- count_dead_letters --
select count(*) from dead_letter where status = :status

-- set_dead_letter_status --
update dead_letter
   set status = :status
 where id = :id
   and (:destination is null or destination = :destination)

-- drop_dead_letter --
delete from dead_letter where id = :id

-- add_gap --
insert into gap (from_lsn, to_lsn, reason, detail, at) values (:from_lsn, :to_lsn, :reason, :detail, :at)
    on conflict do nothing

-- end_gap --
update gap
   set to_lsn = :to_lsn, detail = :detail
 where from_lsn = :from_lsn and to_lsn is null and reason = :reason and detail = :begun

-- list_gaps --
select from_lsn, to_lsn, reason, detail, at from gap order by seq
