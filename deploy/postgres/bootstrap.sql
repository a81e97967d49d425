-- Run once by a superuser inside the new database: the role Vigil logs in as, and what only a superuser may create.
-- The embedded server and the compose file both use it; :'vigil_password' is filled in by whoever runs it.

create extension if not exists timescaledb;
create extension if not exists btree_gist;

create role vigil login password :'vigil_password';
create role vigil_api nologin;
-- The API steps down to vigil_api; the other programs must not have its row security by accident.
grant vigil_api to vigil with inherit false, set true;

alter database vigil owner to vigil;
