-- Where the database lets in by name only.
-- Run by: the database's owner, or a superuser. Locks: none. Safe to repeat.
grant connect on database {database} to {role}
