-- Enums, domains, composites, ranges of the user's making, and each in the other.
create type mood as enum ('sad', 'so so', 'h"appy');
create domain posint as int check (value > 0);
create domain evenint as posint check (value % 2 = 0);
create domain price as numeric(10,2);
create domain tags as text[];
create type spot as (x int, note text, at timestamptz, moods mood[]);
create type nested as (name text, s spot, spots spot[]);
create type floatrange as range (subtype = float8);
create schema other;
create type other.mood as enum ('other');
create table things (id posint primary key, m mood, ms mood[], e evenint, p price, ps price[], t tags, s spot, ss spot[], n nested, f floatrange, om other.mood);
-- changes
insert into things values (1, 'so so', '{sad,"so so","h\"appy",NULL}', 8, 1.50, '{1.50,NULL}', '{a,"b c"}', row (1, 'a "b" \ (c), d', '2026-01-02 03:04:05+00', '{sad,"so so"}'), array[row (1, null, null, null)::spot, null, row (2, '', null, '{}')::spot], row ('n', row (1, 'x', null, null), array[row (3, '}{,"', null, null)::spot]), '[1.5,2.5)', 'other');
insert into things (id) values (2);
update things set m = 'h"appy' where id = 1;
delete from things where id = 1;
