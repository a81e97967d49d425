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

create function note_first_group() returns trigger language plpgsql as $$
begin
    insert into patient_group_history (patient_id, valid_from, patient_group)
    values (new.id, '-infinity', new.patient_group);
    return null;
end $$;
create trigger first_group after insert on patient for each row execute function note_first_group();

-- Rest from the rules (hospital, holiday, a change of sensor): data are kept, rules rest, doses are paused.
create table pause (
    id bigint generated always as identity primary key,
    patient_id integer not null references patient on delete cascade,
    valid tstzrange not null check (not isempty(valid) and not lower_inf(valid) and not upper_inf(valid)),
    reason text not null check (length(reason) between 1 and 500),
    recorded_at timestamptz not null,
    changed_by integer references app_user,
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

-- Electrodes (ecg) or light (ppg): an optical band gives pulse-rate variability. Null: as the model usually does.
alter table device add column modality text check (modality in ('ecg', 'ppg'));
-- How often the device is heard when all is well. Null: as its model usually is.
alter table device add column expected_interval interval check (expected_interval > interval '0');

alter table hrv_window add column modality text not null default 'ppg' check (modality in ('ecg', 'ppg'));
alter table hrv_night add column modality text not null default 'ppg' check (modality in ('ecg', 'ppg'));
