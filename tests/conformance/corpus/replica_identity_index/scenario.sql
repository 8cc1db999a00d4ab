-- A unique index stands for the key.
create table accounts (id int primary key, code text not null, region int not null, note text);
create unique index accounts_code on accounts (region, code);
alter table accounts replica identity using index accounts_code;
-- changes
insert into accounts values (1, 'one', 7, null);
update accounts set note = 'noted';
update accounts set id = 5;
update accounts set code = 'two';
delete from accounts;
