-- Which server this is, and in what money is written.
-- Run by: anybody (no privilege needed). Locks: none. Safe to repeat.
select system_identifier::text, (select reset_val from pg_settings where name = 'lc_monetary') from pg_control_system()
