-- Whether the table of the `postgres` destination and its position are there.
-- Run by: the role of its dsn, on connecting. Locks: none. Safe to repeat.
select to_regclass(%(table)s) is not null, to_regclass(%(position)s) is not null
