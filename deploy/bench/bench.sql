-- name: device_keys
-- The keys of the benchmark's devices, in the order of their ids.
select key from device where id like %(prefix)s || '-%%' order by id;

-- name: is_stored
-- Whether this very reading is committed: asked by the unique index, so that asking often disturbs little.
select exists (select from observation where device_key = %(device)s and code = %(code)s and at = %(at)s);

-- name: make_commits
-- A table of one column, for commits with next to nothing in them.
create table if not exists bench_commit (number integer);

-- name: commit_one
-- One row, committed at once.
insert into bench_commit values (%(number)s);

-- name: drop_commits
-- Removes it.
drop table if exists bench_commit;

-- name: stored
-- How many readings of these devices and this code are committed.
select count(*) from observation where device_key = any(%(devices)s) and code = %(code)s;

-- name: nocturnal_alerts
-- The patients among these with an alert for a low at night.
select distinct patient_id from alert
where rule = 'nocturnal_hypoglycaemia' and patient_id = any(%(patients)s) and state <> 'withdrawn';

-- name: create_reference
-- A table like the one for observations, for rows that nothing else is done with.
create table bench_reference (like observation);

-- name: make_reference_hypertable
-- The same chunks as the one for observations.
select create_hypertable('bench_reference', by_range('at', interval '1 day'), create_default_indexes => false);

-- name: index_reference
-- The same unique index as the one for observations.
create unique index bench_reference_key on bench_reference (device_key, code, at);

-- name: drop_reference
-- Removes it.
drop table if exists bench_reference;

-- name: copy_reference
-- Raw rows in the order of the table's columns.
copy bench_reference from stdin (format binary);
