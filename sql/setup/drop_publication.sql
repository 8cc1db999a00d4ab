-- Remove the publication. Up to PostgreSQL 17 a slot with unread changes cannot be read any more after this.
-- Run by: the publication's owner. Locks: none. Not repeatable: no publication is an error.
drop publication {publication}
