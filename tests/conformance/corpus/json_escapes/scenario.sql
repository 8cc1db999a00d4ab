-- Escapes that json takes and Unicode has no character for.
create table escapes (id int primary key, j json);
-- changes
insert into escapes values (1, '"\ud800"'), (2, '{"a": "\u0000"}'), (3, '"\u0041"');
