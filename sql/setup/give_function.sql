-- One of our functions to the role that owns the schema.
-- Run by: a superuser, or a member of both roles. Locks: none. Safe to repeat.
alter function {function}(jsonb) owner to {owner}
