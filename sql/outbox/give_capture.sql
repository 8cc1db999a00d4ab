-- Give a capture function to the role that owns the outbox: it runs with its owner's rights.
-- Run by: a superuser, or a member of both roles. Locks: none. Safe to repeat.
alter function {function}() owner to {owner}
