-- A name is any text.
create schema "Sche ma.1";
create table "Sche ma.1"."ta""ble" ("we""ird" int primary key, "Ünï ☃" text, "a.b" text, "select" int, "x'y\z" int, "{v}%s" int, "new
line" int);
create table "t;--" (id int primary key);
-- changes
insert into "Sche ma.1"."ta""ble" values (1, 'é☃😀', 'dot', 2, 3, 4, 5);
update "Sche ma.1"."ta""ble" set "select" = 3;
delete from "Sche ma.1"."ta""ble";
insert into "t;--" values (1);
