-- Note on a capture function that it is ours, and from what it was made: `apply` replaces it when that has changed.
-- Run by: the function's owner. Locks: none. Safe to repeat.
comment on function {function}() is {mark}
