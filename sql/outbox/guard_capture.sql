-- Only the triggers call a capture function: nobody attaches it to a table of his own.
-- Run by: the function's owner. Locks: none. Safe to repeat.
revoke all on function {function}() from public
