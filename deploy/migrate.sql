-- name: wait_for_locks
-- How long this session waits for any lock, in ms, before PostgreSQL says that it is not available.
select set_config('lock_timeout', %s::integer::text, false);

-- name: lock
-- Makes migrators wait for each other until the session ends.
select pg_advisory_lock(7316, 3);

-- name: unlock
-- Lets the next migrator in.
select pg_advisory_unlock(7316, 3);

-- name: migrators
-- The session that holds the migrators' lock: its name and process.
select coalesce(nullif(a.application_name, ''), 'a session'), a.pid
from pg_locks l join pg_stat_activity a using (pid)
where l.locktype = 'advisory' and l.classid = 7316 and l.objid = 3 and l.granted and a.datname = current_database()
  and l.database = (select oid from pg_database where datname = current_database());

-- name: table_holders
-- The sessions that hold tables in this database now, the longest transaction first: name and process.
select coalesce(nullif(a.application_name, ''), 'a session'), a.pid
from pg_stat_activity a
where a.datname = current_database() and a.pid <> pg_backend_pid() and exists (
    select from pg_locks l where l.pid = a.pid and l.granted and l.locktype = 'relation'
)
order by a.xact_start nulls last
limit 3;

-- name: create_record
-- The record of what has been applied; sha256 tells whether a file was changed afterwards.
create table if not exists schema_migration (
    version integer primary key,
    name text not null,
    sha256 text not null,
    applied_at timestamptz not null
);

-- name: has_record
-- Whether any migration has ever run here.
select to_regclass('public.schema_migration') is not null;

-- name: applied
-- What has been applied, oldest first.
select version, name, sha256 from schema_migration order by version;

-- name: first_applied
-- When the schema was made; null while there is none.
select min(applied_at) from schema_migration;

-- name: record
-- Notes a migration as applied, in its own transaction.
insert into schema_migration (version, name, sha256, applied_at) values (%s, %s, %s, %s);

-- name: let_api_look
-- The API's readiness check compares versions.
grant select on schema_migration to vigil_api;

-- name: may_become_api
-- Whether this role may step down to vigil_api (superusers may).
select pg_has_role(current_user, 'vigil_api', 'set');

-- name: become_api
-- Lets the owner of the schema step down to the API's role.
grant vigil_api to current_user with inherit false, set true;

-- name: upsert_unit
-- A unit by its number.
insert into vocabulary_unit as old (unit, ucum) values (%s, %s)
on conflict (unit) do update set ucum = excluded.ucum where old.ucum <> excluded.ucum;

-- name: upsert_code
-- A code by its number.
insert into vocabulary_code as old (code, name, canonical_unit) values (%s, %s, %s)
on conflict (code) do update set name = excluded.name, canonical_unit = excluded.canonical_unit
where (old.name, old.canonical_unit) <> (excluded.name, excluded.canonical_unit);

-- name: upsert_conversion
-- How a unit becomes a code's canonical one.
insert into vocabulary_conversion as old (code, unit, factor, shift) values (%s, %s, %s, %s)
on conflict (code, unit) do update set factor = excluded.factor, shift = excluded.shift
where (old.factor, old.shift) <> (excluded.factor, excluded.shift);

-- name: upsert_flag
-- A flag by its bit.
insert into vocabulary_flag as old (bit, name) values (%s, %s)
on conflict (bit) do update set name = excluded.name where old.name <> excluded.name;
