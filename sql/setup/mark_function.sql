-- Note on a function that it is ours, and which edition of it.
-- Run by: the schema's owner. Locks: none. Safe to repeat.
comment on function {function}(jsonb) is {mark}
