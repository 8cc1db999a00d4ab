-- Every statement of the state store, for SQLite and PostgreSQL alike; parameters are written :name. Where {chosen} stands,
-- those of the conditions at the end that are asked for are written, and no others, so that indexes can be used. `glob` is
-- SQLite's operator; PostgreSQL is given `~`, and the pattern as a regular expression.
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
                         created_at, answer)
values (:id, :destination, :kind, 'dead', :rule, :event, :relation, :commit_lsn, :commit_time, :reason, :payload,
        :created_at, :answer)
on conflict (id, destination) do update
   set status = 'dead', reason = excluded.reason, answer = excluded.answer
 where dead_letter.status <> 'dead'

-- find_dead_letter --
select status from dead_letter where id = :id and destination = :destination

-- page_of_dead_letters --
select seq, id, destination, kind, rule, event, relation, commit_lsn, commit_time, reason, payload, created_at, status,
       answer
  from dead_letter
 where {chosen}
 order by seq
 limit :max_letters

-- page_of_seqs --
select seq from dead_letter where {chosen} order by seq limit :max_letters

-- last_seq --
select coalesce(max(seq), 0) from dead_letter

-- ids_beginning --
select distinct id from dead_letter where {chosen} order by id limit 2

-- count_dead_letters --
select count(*) from dead_letter where {chosen}

-- counts_by_destination --
select destination, kind, status, count(*), min(created_at)
  from dead_letter
 group by destination, kind, status
 order by destination, kind, status

-- mark_dead_letters --
update dead_letter
   set status = :status_after, reason = coalesce(:reason_after, reason)
 where {chosen}

-- drop_dead_letters --
delete from dead_letter where {chosen}

-- oldest_dead_letters --
select seq, destination, commit_lsn from dead_letter where status = :status order by seq limit :max_letters

-- add_gap --
insert into gap (from_lsn, to_lsn, reason, detail, at, events)
values (:from_lsn, :to_lsn, :reason, :detail, :at, :events)
    on conflict do nothing

-- find_gap --
select seq, from_lsn, to_lsn, events from gap
 where reason = :reason and detail = :detail and events is not null
 order by seq desc
 limit 1

-- extend_gap --
update gap
   set from_lsn = :from_lsn, to_lsn = :to_lsn, events = :events
 where seq = :seq

-- list_gaps --
select from_lsn, to_lsn, reason, detail, at, events from gap order by seq

-- chosen_id --
id = :id

-- chosen_beginning --
substr(id, 1, length(:beginning)) = :beginning

-- chosen_status --
status = :status

-- chosen_open --
status <> 'replayed'

-- chosen_destination --
-- Not by an index over it: letters are read and changed a page at a time in the order of seq, and each page would read all
-- of that index anew.
destination || '' = :destination

-- chosen_kind --
kind = :kind

-- chosen_rule --
rule = :rule

-- chosen_event --
event glob :event

-- chosen_table --
-- With its schema or without.
(relation = :table or substr(relation, length(relation) - length(:table)) = '.' || :table)

-- chosen_since --
created_at >= :since

-- chosen_until --
created_at < :until

-- chosen_reason --
replace(reason, :reason, '') <> reason

-- chosen_after --
seq > :after

-- chosen_up_to --
seq <= :up_to
