-- Settings of the rules with their history, groups and pauses of patients, and what a device measures with and how often.

-- What somebody set for one rule, for one patient or for the whole clinic; rows are added, never changed. The newest row
-- of a layer holds: the group's preset (in the program), on it the clinic's changes, on it the patient's.
create table rule_setting (
    id bigint generated always as identity primary key,
    patient_id integer references patient on delete cascade,   -- null: the clinic, for every patient
    rule text not null,
    changes jsonb not null check (jsonb_typeof(changes) = 'object' and length(changes::text) <= 8192),
    valid_from timestamptz not null,
    changed_by integer references app_user,                    -- null: from the shell
    note text check (length(note) <= 500),
    unique nulls not distinct (patient_id, rule, valid_from)
);

-- Which group a patient belonged to from when on; the first begins at -infinity. patient.patient_group is the newest.
create table patient_group_history (
    patient_id integer not null references patient on delete cascade,
    valid_from timestamptz not null,
    patient_group text not null check (patient_group in ('new', 'fluctuating', 'stable')),
    changed_by integer references app_user,
    note text check (length(note) <= 500),
    primary key (patient_id, valid_from)
);
insert into patient_group_history (patient_id, valid_from, patient_group)
select id, '-infinity', patient_group from patient;

create function note_first_groups() returns trigger language plpgsql as $$
begin
    insert into patient_group_history (patient_id, valid_from, patient_group)
    select id, '-infinity', patient_group from added;
    return null;
end $$;
create trigger first_groups after insert on patient referencing new table as added
    for each statement execute function note_first_groups();

create function follow_newest_group() returns trigger language plpgsql
security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    update patient p set patient_group = newest.patient_group
    from (select distinct on (h.patient_id) h.patient_id, h.patient_group
          from patient_group_history h where h.patient_id in (select patient_id from added)
          order by h.patient_id, h.valid_from desc) newest
    where p.id = newest.patient_id and p.patient_group <> newest.patient_group;
    return null;
end $$;
create trigger newest_group after insert on patient_group_history referencing new table as added
    for each statement execute function follow_newest_group();

-- Rest from the rules (hospital, holiday, a change of sensor): data are kept, rules rest, doses are paused.
create table pause (
    id bigint generated always as identity primary key,
    patient_id integer not null references patient on delete cascade,
    valid tstzrange not null check (not isempty(valid) and not lower_inf(valid) and not upper_inf(valid)),
    reason text not null check (length(reason) between 1 and 500),
    recorded_at timestamptz not null,
    changed_by integer references app_user,
    ended_at timestamptz,                                      -- when somebody ended it before its time
    ended_by integer references app_user,
    exclude using gist (patient_id with =, valid with &&)
);

create trigger directory_changed after insert or update or delete or truncate on rule_setting
    for each statement execute function bump_directory_version();
create trigger directory_changed after insert or update or delete or truncate on patient_group_history
    for each statement execute function bump_directory_version();
create trigger directory_changed after insert or update or delete or truncate on pause
    for each statement execute function bump_directory_version();
create trigger doses_move after insert or update or delete on pause
    for each row execute function recompute_doses();

-- A rule about doses that goes off ends what it had opened: a worker looks at the doses again, at once.
create function dose_rules_changed() returns trigger language plpgsql
    security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    update public.dose_schedule set version = version + 1,
        computed_until = case when computed_until is not null then least(computed_until, new.valid_from) end
    where new.patient_id is null or patient_id = new.patient_id;
    return null;
end $$;
create trigger dose_rules_changed after insert on rule_setting
    for each row when (new.rule = 'low_adherence') execute function dose_rules_changed();

-- Electrodes (ecg) or light (ppg): an optical band gives pulse-rate variability. Null: as the model usually does.
alter table device add column modality text check (modality in ('ecg', 'ppg'));
-- How often the device is heard when all is well. Null: as its model usually is.
alter table device add column expected_interval interval check (expected_interval > interval '0');

alter table hrv_window add column modality text not null default 'ppg' check (modality in ('ecg', 'ppg'));
alter table hrv_night add column modality text not null default 'ppg' check (modality in ('ecg', 'ppg'));

-- Row security ----------------------------------------------------------------------------------------------------
-- Who sees a patient may also set their rules, group and pauses, in their own name; the clinic's settings are seen by
-- all who care for patients, and set from the shell.

-- What follows from a change is done with the rights of the owner: those who may make it need no others.
alter function bump_directory_version() security definer set search_path = pg_catalog, public, pg_temp;
alter function recompute_doses() security definer set search_path = pg_catalog, public, pg_temp;

alter table rule_setting enable row level security;
create policy seen on rule_setting for select to vigil_api using (
    case when patient_id is null then coalesce((select current_user_role()) in ('admin', 'doctor', 'nurse'), false)
         else (select may_administer()) or patient_id in (select seen_patients()) end);
create policy written on rule_setting for insert to vigil_api with check (
    changed_by = (select current_user_id()) and patient_id is not null
    and ((select may_administer()) or patient_id in (select seen_patients())));
alter table patient_group_history enable row level security;
create policy seen on patient_group_history for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
create policy written on patient_group_history for insert to vigil_api with check (
    changed_by = (select current_user_id()) and ((select may_administer()) or patient_id in (select seen_patients())));
alter table pause enable row level security;
create policy seen on pause for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
create policy written on pause for insert to vigil_api with check (
    changed_by = (select current_user_id()) and ended_by is null
    and ((select may_administer()) or patient_id in (select seen_patients())));
-- What has been ended says why nobody was told of anything: it stays as it is.
create policy ended on pause for update to vigil_api using (
    ended_at is null and ((select may_administer()) or patient_id in (select seen_patients())))
    with check (ended_by = (select current_user_id()) and ((select may_administer()) or patient_id in (select seen_patients())));
create policy removed on pause for delete to vigil_api using (
    ended_at is null and ((select may_administer()) or patient_id in (select seen_patients())));

grant select, insert on rule_setting, patient_group_history, pause to vigil_api;
grant update (valid, ended_at, ended_by), delete on pause to vigil_api;
