-- Remove one of our functions. Code that calls it fails from then on.
-- Run by: the schema's owner. Locks: none. Not repeatable: no function is an error.
drop function {function}(jsonb)
