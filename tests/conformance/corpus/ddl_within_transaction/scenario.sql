-- A new description comes in mid-transaction; ordinals count on.
create table shapes (id int primary key, a text);
-- changes
begin;
insert into shapes values (1, 'a');
alter table shapes add column b int default 5;
insert into shapes values (2, 'b', 6);
alter table shapes rename column a to "A";
insert into shapes values (3, 'c', 7);
alter table shapes drop column b;
delete from shapes where id = 1;
insert into shapes values (4, 'd');
commit;
insert into shapes values (5, 'e');
