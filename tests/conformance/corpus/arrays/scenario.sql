-- Arrays of every dimension, with everything that needs a quote.
create table lists (id int primary key, i int[], t text[], b bool[], n numeric[], ts timestamptz[], j jsonb[], u uuid[], by bytea[], bx box[], d date[], r int4range[], f float8[]);
-- changes
insert into lists values (1, '{1,NULL,-3}', '{a,"b,c","d\"e","f\\g","{h}",NULL,"NULL",null,""," i ",☃}', '{t,f,NULL}', '{1.50,123456789012345678901234567890}', '{"2026-01-02 03:04:05.5+00",infinity}', array['{"a": [1, "x\"y"]}', 'null', '"NULL"', null]::jsonb[], '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', '{"\\x00ff",NULL}', '{(1,1),(0,0);(3,3),(2,2)}', '{2026-01-02,infinity}', '{"[1,5)",empty}', '{0.1,1e+20}');
insert into lists (id, i, t) values (2, '{}', '{}');
insert into lists (id, i, t) values (3, '{{1,2},{3,NULL}}', '{{{a},{"b c"}},{{"{"},{NULL}}}');
insert into lists (id, i, t) values (4, '[0:1][-1:0]={{1,2},{3,4}}', '[5:6]={x,y}');
insert into lists (id) values (5);
