-- What the tolerant capture function does when a change cannot be captured: the application's write goes through, and
-- the failure is on record. Without the message, which might quote a value.
exception when others then
    begin
        insert into wal_tracker.capture_failure (at, xid, relation, op, sqlstate) values (
            statement_timestamp(), pg_current_xact_id(), {relation}, tg_op, sqlstate
        );
    exception when others then
        raise warning 'wal_tracker: a change of %.% was not captured, and that could not be noted (%)',
            tg_table_schema, tg_table_name, sqlstate;
    end;
    return null;
