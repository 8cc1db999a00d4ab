-- wal2json: no, it writes null for NaN and infinities
-- What JSON has no number for.
create table floats (id int primary key, f4 real, f8 double precision, n numeric, fs float8[], ns numeric[]);
-- changes
insert into floats values (1, 'NaN', 'NaN', 'NaN', '{NaN,1}', '{NaN,1.50}');
insert into floats values (2, 'Infinity', '-Infinity', 'Infinity', '{Infinity,-Infinity}', '{Infinity,-Infinity}');
insert into floats values (3, '-0', '-0', '-0.00', '{-0}', '{-0}');
