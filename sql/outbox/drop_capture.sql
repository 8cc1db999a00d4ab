-- Remove a capture function.
-- Run by: its owner, after its triggers. Locks: none. Not repeatable: no function is an error.
drop function {function}()
