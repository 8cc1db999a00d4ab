-- Each change has the shape its table had when it was written.
create table shapes (id int primary key, a text);
-- changes
insert into shapes values (1, 'a');
alter table shapes add column b int default 5;
insert into shapes values (2, 'b', 6);
update shapes set a = 'aa' where id = 1;
alter table shapes drop column a;
update shapes set b = 7 where id = 1;
insert into shapes values (3, 8);
alter table shapes rename column b to c;
insert into shapes values (4, 9);
alter table shapes alter column c type text using c || '!';
update shapes set c = 'text' where id = 4;
delete from shapes where id = 4;
create table later (id int primary key);
insert into later values (1);
drop table later;
