-- The whole first schema: who is watched, by which devices, what they said, what Vigil concluded.
--
-- Times are timestamptz; the clock is never read here (no now(), no defaults that read it): the programs pass it in.
-- Works on both TimescaleDB editions: nothing below needs the community licence.

create extension if not exists timescaledb;
create extension if not exists btree_gist;

-- Times travel between the programs and SQL as whole milliseconds since the Unix epoch.
create function from_ms(ms bigint) returns timestamptz language sql immutable parallel safe
return timestamptz 'epoch' + ms * interval '1 ms';

create function to_ms(at timestamptz) returns bigint language sql immutable parallel safe
return (extract(epoch from at) * 1000)::bigint;

-- Vocabulary ------------------------------------------------------------------------------------------------------
-- Filled from devices/vocabulary.py after every migration, so that SQL and Python cannot drift apart.

create table vocabulary_code (
    code smallint primary key,
    name text not null unique,
    canonical_unit smallint not null
);

create table vocabulary_unit (
    unit smallint primary key,
    ucum text not null unique
);

-- canonical = value * factor + shift
create table vocabulary_conversion (
    code smallint not null references vocabulary_code,
    unit smallint not null references vocabulary_unit,
    factor double precision not null,
    shift double precision not null default 0,
    primary key (code, unit)
);

create table vocabulary_flag (
    bit smallint primary key,
    name text not null unique
);

create function flag_names(flags smallint) returns text[]
language sql stable parallel safe
return (select coalesce(array_agg(name order by bit), '{}') from vocabulary_flag where flags & bit <> 0);

-- People ----------------------------------------------------------------------------------------------------------

create table patient (
    id integer generated always as identity primary key,
    name text not null check (length(name) between 1 and 200),
    hypoglycaemia_risk boolean not null default false,
    patient_group text not null default 'stable' check (patient_group in ('new', 'fluctuating', 'stable')),
    created_at timestamptz not null
);
create index patient_public_id on patient ((id::text));

-- The IANA zone the patient lives by; people travel, so each has a beginning. The first begins at -infinity.
create table patient_timezone (
    patient_id integer not null references patient on delete cascade,
    valid_from timestamptz not null,
    timezone text not null,
    primary key (patient_id, valid_from)
);

-- What a patient is expected to send, and how often.
create table expected_code (
    patient_id integer not null references patient on delete cascade,
    code smallint not null references vocabulary_code,
    expected_interval interval not null check (expected_interval > interval '0'),
    primary key (patient_id, code)
);

-- Consent to process a patient's data. Without a current one, data are refused as no_consent.
create table consent (
    id bigint generated always as identity primary key,
    patient_id integer not null references patient on delete cascade,
    valid tstzrange not null check (not isempty(valid)),
    recorded_at timestamptz not null,
    exclude using gist (patient_id with =, valid with &&)
);

create table app_user (
    id integer generated always as identity primary key,
    email text not null check (email = lower(email) and email like '_%@_%' and length(email) <= 254) unique,
    role text not null check (role in ('admin', 'doctor', 'nurse', 'patient', 'integration')),
    password_hash text not null,
    disabled_at timestamptz,
    created_at timestamptz not null
);

create table care_team (
    user_id integer not null references app_user on delete cascade,
    patient_id integer not null references patient on delete cascade,
    added_at timestamptz not null,
    primary key (user_id, patient_id)
);
create index care_team_by_patient on care_team (patient_id);

-- One row per refresh token ever given; a used one that comes back ends its whole family (theft).
create table refresh_token (
    token_hash bytea primary key,
    family uuid not null,
    user_id integer not null references app_user on delete cascade,
    issued_at timestamptz not null,
    expires_at timestamptz not null,
    used_at timestamptz,
    revoked_at timestamptz
);
create index refresh_token_by_family on refresh_token (family);
create index refresh_token_by_user on refresh_token (user_id);

-- Devices ---------------------------------------------------------------------------------------------------------

create table device (
    key integer generated always as identity primary key,
    id text not null unique check (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    model text not null check (model in ('wristband', 'pillbox', 'cgm', 'glucose_meter', 'blood_pressure',
                                         'thermometer', 'scale', 'oximeter', 'edge')),
    address text,
    via integer references device,
    disabled_at timestamptz,
    created_at timestamptz not null,
    check (via is null or via <> key)
);
create index device_by_via on device (via) where via is not null;

-- Who wears what from when to when. A device has one wearer at a time: the database refuses an overlap.
create table assignment (
    id bigint generated always as identity primary key,
    device_key integer not null references device,
    patient_id integer not null references patient,
    valid tstzrange not null check (not isempty(valid)),
    created_at timestamptz not null,
    exclude using gist (device_key with =, valid with &&)
);
create index assignment_by_patient on assignment (patient_id);

-- Rises with every change of devices, assignments, zones, consents: the gateway reads it inside each batch's
-- transaction and never stores a batch that was resolved with an older directory.
create table directory_version (
    only_row boolean primary key default true check (only_row),
    version bigint not null
);
insert into directory_version (version) values (1);

create function bump_directory_version() returns trigger language plpgsql as $$
begin
    update directory_version set version = version + 1;
    perform pg_notify('vigil_directory', '');
    return null;
end $$;

create trigger directory_changed after insert or update or delete or truncate on device
    for each statement execute function bump_directory_version();
create trigger directory_changed after insert or update or delete or truncate on assignment
    for each statement execute function bump_directory_version();
create trigger directory_changed after insert or update or delete or truncate on patient_timezone
    for each statement execute function bump_directory_version();
create trigger directory_changed after insert or update or delete or truncate on consent
    for each statement execute function bump_directory_version();

-- What a device last said of itself, and what its clock seems to be off by.
create table device_status (
    device_key integer primary key references device on delete cascade,
    online boolean,
    battery double precision,
    firmware text,
    status_at timestamptz,            -- when the last status arrived
    contact_at timestamptz,           -- when anything last arrived
    contact_stamp timestamptz,        -- newest device stamp with no seq gap before it
    clock_offset_ms bigint,           -- device clock minus arrival; null while unknown
    clock_command_at timestamptz      -- when set_clock was last sent
);

-- Observations ----------------------------------------------------------------------------------------------------

-- One row per reading; value and unit exactly as the sensor sent them (72 mg/dL stays 72 mg/dL).
create table observation (
    at timestamptz not null,
    received_at timestamptz not null,
    device_key integer not null,
    patient_id integer not null,
    code smallint not null,
    unit smallint not null,
    flags smallint not null,
    value double precision            -- null: the sensor said LO or HI (or flagged the sample) without a number
);
select create_hypertable('observation', by_range('at', interval '1 day'), create_default_indexes => false);
create unique index observation_key on observation (device_key, code, at);

-- Runs of consecutive RR intervals in ms. `at` is the beat that ends the first interval, `ends_at` the last beat.
create table rr_series (
    at timestamptz not null,
    ends_at timestamptz not null,
    received_at timestamptz not null,
    device_key integer not null,
    patient_id integer not null,
    unit smallint not null,           -- as sent; `intervals` too
    flags smallint not null,
    intervals double precision[] not null
);
select create_hypertable('rr_series', by_range('at', interval '1 day'), create_default_indexes => false);
create unique index rr_series_key on rr_series (device_key, at);

create table pillbox_event (
    id bigint generated always as identity primary key,
    device_key integer not null references device,
    patient_id integer not null references patient,
    type text not null,
    at timestamptz not null,
    compartment smallint,
    count smallint,
    detail jsonb,
    received_at timestamptz not null,
    unique nulls not distinct (device_key, type, at, compartment)
);
create index pillbox_event_by_patient on pillbox_event (patient_id, at);
create index pillbox_event_by_device on pillbox_event (device_key, at);

-- The same key with another value: kept beside the first, counted, shown; the first one counts.
create table conflict (
    id bigint generated always as identity primary key,
    device_key integer not null references device,
    patient_id integer not null references patient,
    code smallint not null references vocabulary_code,
    at timestamptz not null,
    unit smallint not null,
    flags smallint not null,
    value double precision,
    kept_value double precision,
    kept_unit smallint not null,
    received_at timestamptz not null,
    unique nulls not distinct (device_key, code, at, unit, value)
);
create index conflict_by_patient on conflict (patient_id, id);

-- Receipts --------------------------------------------------------------------------------------------------------

-- One row per committed batch: which (device, seq) it held. Folded into `receipt` every few seconds and removed.
create table receipt_journal (
    id bigint generated always as identity primary key,
    received_at timestamptz not null,
    device_keys integer[] not null,
    seqs bigint[] not null,
    oldest bigint[] not null,         -- -1: the message did not say
    stamps bigint[] not null,         -- sent_at, ms since the epoch; -1: the message did not say
    news boolean[] not null           -- it brought something that was not stored yet
);

create table receipt (
    device_key integer primary key references device on delete cascade,
    first_seq bigint not null,
    seq bigint not null,              -- everything from first_seq (or oldest) to here is committed
    above int8multirange not null,    -- committed, but beyond a gap
    gap_since timestamptz,            -- when the gap below `above` was first seen
    lost bigint not null default 0,
    published_seq bigint
);

-- Quarantine ------------------------------------------------------------------------------------------------------

create table quarantine (
    id bigint generated always as identity primary key,
    received_at timestamptz not null,
    topic text not null,
    device_id text,                   -- as in the topic; the device need not exist
    patient_id integer,
    reason text not null check (reason in ('malformed', 'too_large', 'unknown_device', 'unassigned_device',
        'unknown_code', 'unit_mismatch', 'out_of_range', 'clock_ahead', 'clock_behind', 'no_consent')),
    detail text not null,             -- the sentence for a human
    series smallint[],                -- which series or events of the message; null: all of it
    content_type text,
    payload bytea,                    -- first 64 KiB; null where keeping it is not allowed
    payload_bytes integer not null,
    payload_sha256 bytea not null,
    replayed_at timestamptz,
    unique nulls not distinct (device_id, reason, payload_sha256, series)
);
create index quarantine_by_device on quarantine (device_id, id);
create index quarantine_by_reason on quarantine (reason, id);

-- What was refused per device, day (UTC) and reason, also beyond the cap of kept entries.
create table quarantine_count (
    device_id text not null,
    day date not null,
    reason text not null,
    refused bigint not null,
    kept bigint not null,
    primary key (device_id, day, reason)
);

-- Doses -----------------------------------------------------------------------------------------------------------

create table dose_schedule (
    id integer generated always as identity primary key,
    patient_id integer not null references patient on delete cascade,
    medication text not null check (length(medication) between 1 and 200),
    local_times time[] not null check (cardinality(local_times) between 1 and 24),
    weekdays smallint[] not null default '{1,2,3,4,5,6,7}',   -- ISO: 1 is Monday
    compartment smallint,
    window_before interval not null default interval '60 min',
    window_after interval not null default interval '60 min',
    valid_from date not null,
    valid_until date,                 -- last day, inclusive
    critical boolean not null default false,
    created_at timestamptz not null,
    version integer not null default 1,   -- rises with every change that may move doses
    computed_until timestamptz        -- doses due before this have their rows; null: all of them are to be computed anew
);
create index dose_schedule_by_patient on dose_schedule (patient_id);
create index dose_schedule_computed on dose_schedule (computed_until);

create function dose_schedule_changed() returns trigger language plpgsql as $$
begin
    new.version := old.version + 1;
    new.computed_until := null;
    return new;
end $$;

create trigger doses_move before update of local_times, weekdays, compartment, window_before, window_after, valid_from, valid_until
    on dose_schedule for each row execute function dose_schedule_changed();

-- Another zone moves the doses; another box is another one to ask whether it was opened.
create function recompute_doses() returns trigger language plpgsql as $$
begin
    update dose_schedule set version = version + 1, computed_until = null
    where patient_id in (old.patient_id, new.patient_id);
    return null;
end $$;

create trigger doses_move after insert or update or delete on patient_timezone
    for each row execute function recompute_doses();
create trigger doses_move after insert or update or delete on assignment
    for each row execute function recompute_doses();

create table dose (
    id bigint generated always as identity primary key,
    schedule_id integer not null references dose_schedule on delete cascade,
    patient_id integer not null references patient on delete cascade,
    due_at timestamptz not null,
    window_start timestamptz not null,
    window_end timestamptz not null,
    state text not null check (state in ('due', 'taken', 'early', 'late', 'missed', 'doubled', 'skipped', 'paused', 'unknown')),
    taken_at timestamptz,             -- event time of the opening (or the skip) that settled it
    skipped_at timestamptz,           -- event time of a skip, also when it was taken after all
    doubled_at timestamptz,           -- event time of the second opening
    contact_seen_at timestamptz,      -- when the box was first known to be in contact after the window
    judge_at timestamptz,             -- when time alone will say more about it
    awaits integer references device, -- the box that must be heard after the window before more can be said
    updated_at timestamptz not null,
    unique (schedule_id, due_at)
);
create index dose_by_patient on dose (patient_id, due_at);
create index dose_to_judge on dose (judge_at) where judge_at is not null;
create index dose_awaiting on dose (awaits, window_end) where awaits is not null;

-- How far a pill box is known to have told everything: newest stamp without a gap before it, when that came, whether
-- messages are missing now. An edge box numbers the messages of those it reads, so its gap counts; that it is heard says
-- nothing of a box out of its reach, so there the box's own newest reading or event counts, if not older than `since`.
create function pillbox_contact(box integer, since timestamptz)
returns table (stamp timestamptz, seen_at timestamptz, missing boolean) language sql stable
begin atomic
    select case when d.via is null then s.contact_stamp else least(heard.at, heard.received_at) end,
           case when d.via is null then s.contact_at else heard.received_at end,
           coalesce(not isempty(r.above), false)
    from device d
    left join device_status s on s.device_key = d.key
    left join receipt r on r.device_key = coalesce(d.via, d.key)
    left join lateral (
        select said.at, said.received_at
        from (
            select reading.at, reading.received_at
            from vocabulary_code c
            cross join lateral (select o.at, o.received_at from observation o
                                where o.device_key = d.key and o.code = c.code and o.at >= since
                                order by o.at desc limit 1) reading
            where d.via is not null
            union all
            (select e.at, e.received_at from pillbox_event e
             where d.via is not null and e.device_key = d.key and e.at >= since order by e.at desc limit 1)
        ) said
        order by said.at desc limit 1
    ) heard on true
    where d.key = box and d.model = 'pillbox';
end;

-- Heart-rate variability ------------------------------------------------------------------------------------------

-- 5-min windows whose RR changed since they were last computed; `version` rises so that no change is overlooked.
create table hrv_dirty (
    patient_id integer not null,
    window_start timestamptz not null,
    version bigint not null default 1,
    primary key (patient_id, window_start)
);
create index hrv_dirty_by_time on hrv_dirty (window_start);

create table hrv_window (
    patient_id integer not null references patient on delete cascade,
    window_start timestamptz not null,
    device_key integer not null references device,
    beats integer not null,
    coverage double precision not null,        -- 0..1 of the window
    corrected double precision not null,       -- 0..1 of the beats
    valid boolean not null,
    rmssd double precision,                    -- ms
    sdnn double precision,                     -- ms
    mean_heart_rate double precision,          -- /min
    primary key (patient_id, window_start)
);

create table hrv_night (
    patient_id integer not null references patient on delete cascade,
    night date not null,                       -- local date on which the night ends
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    windows integer not null,                  -- valid ones
    rmssd double precision,                    -- ms, median over valid windows
    sdnn double precision,
    mean_heart_rate double precision,
    ln_rmssd double precision,
    baseline double precision,                 -- ln ms, null below 7 nights
    baseline_sd double precision,
    rolling_mean double precision,             -- 7-day mean of ln_rmssd, null below 3 nights
    z double precision,
    statistic double precision,                -- of the sequential test
    cusum double precision,                    -- of a plain one-sided CUSUM beside it
    drift boolean not null default false,
    settled boolean not null default false,    -- the night is over and was assessed with all that came of it
    primary key (patient_id, night)
);
create index hrv_night_unsettled on hrv_night (ends_at) where not settled;

-- Alerts ----------------------------------------------------------------------------------------------------------

create table alert (
    id bigint generated always as identity primary key,
    patient_id integer not null references patient,
    rule text not null,
    subject text not null default '',          -- what else tells episodes of one rule apart (a dose, a device)
    severity text not null check (severity in ('urgent', 'high', 'medium', 'low')),
    technical boolean not null default false,
    state text not null check (state in ('open', 'acknowledged', 'snoozed', 'resolved', 'withdrawn')),
    data text not null default 'current' check (data in ('current', 'unknown')),
    opened_at timestamptz not null,
    resolved_at timestamptz,
    running boolean not null,                  -- the episode goes on in the data, whatever a human did to the alert
    raised_at timestamptz not null,
    updated_at timestamptz not null,
    retrospective boolean not null,
    summary text not null,
    evidence jsonb not null,
    rule_version integer not null default 1,
    settings jsonb not null default '{}',
    acknowledged_by integer references app_user,
    acknowledged_at timestamptz,
    snoozed_until timestamptz,
    superseded_by bigint references alert,
    check (resolved_at is null or resolved_at >= opened_at)
);
-- One alert per episode.
create unique index alert_episode on alert (patient_id, rule, subject, opened_at) where state <> 'withdrawn';
create index alert_by_patient on alert (patient_id, rule, opened_at);
create index alert_running on alert (rule, patient_id) where running;
create index alert_without_data on alert (rule) where data = 'unknown';
create index alert_open on alert (patient_id) where state in ('open', 'acknowledged', 'snoozed');

create table alert_history (
    id bigint generated always as identity primary key,
    alert_id bigint not null references alert on delete cascade,
    at timestamptz not null,
    action text not null check (action in ('raised', 'updated', 'severity_raised', 'resolved', 'reopened', 'withdrawn',
        'merged', 'data_unknown', 'data_current', 'acknowledged', 'snoozed', 'note')),
    actor integer references app_user,         -- null: Vigil itself
    note text,
    detail jsonb
);
create index alert_history_by_alert on alert_history (alert_id, id);

-- What is to be told, in the order of commits: writers take alert_outbox_lock() first, last thing before they commit,
-- so that a reader who has seen id N never finds a smaller one later.
create table outbox (
    id bigint generated always as identity primary key,
    alert_id bigint not null references alert on delete cascade,
    patient_id integer not null,
    action text not null,
    alert jsonb not null,                      -- the alert's row as it was then
    created_at timestamptz not null
);

create function alert_outbox_lock() returns void language sql
begin atomic select pg_advisory_xact_lock(7316, 1); end;

create table command (
    id bigint generated always as identity primary key,
    device_key integer not null references device on delete cascade,
    type text not null,
    payload jsonb not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    sent_at timestamptz,
    done_at timestamptz,
    ok boolean
);
create index command_unsent on command (expires_at) where sent_at is null;

-- Views -----------------------------------------------------------------------------------------------------------

create view readings as
select d.id as device_id, o.patient_id::text as patient_id, c.name as code, o.at, o.value, u.ucum as unit, flag_names(o.flags) as flags
from (select distinct device_key, patient_id from assignment) a
join device d on d.key = a.device_key
join observation o on o.device_key = a.device_key and o.patient_id = a.patient_id
join vocabulary_code c on c.code = o.code
join vocabulary_unit u on u.unit = o.unit
union all
select d.id, r.patient_id::text, 'rr_interval', r.at + (beat.after_ms - r.intervals[1] * k.factor) * interval '1 ms',
       beat.value, u.ucum, flag_names(r.flags)
from (select distinct device_key, patient_id from assignment) a
join device d on d.key = a.device_key
join rr_series r on r.device_key = a.device_key and r.patient_id = a.patient_id
join vocabulary_unit u on u.unit = r.unit
join vocabulary_code c on c.name = 'rr_interval'
join vocabulary_conversion k on k.code = c.code and k.unit = r.unit
cross join lateral (
    select value, sum(value * k.factor) over (order by n) as after_ms
    from unnest(r.intervals) with ordinality as i (value, n)
) beat;

comment on view readings is 'Every stored reading, value and unit as the sensor sent them. Part of the contract.';

-- Row security ----------------------------------------------------------------------------------------------------
-- The API sets vigil.user_id for each transaction and works as vigil_api. Hypertables are out of its reach (row
-- security does not follow into chunks): it reads them through the barrier views below.

do $$ begin
    if not exists (select from pg_roles where rolname = 'vigil_api') then
        create role vigil_api nologin;
    end if;
end $$;

create function current_user_id() returns integer language sql stable parallel safe
return nullif(current_setting('vigil.user_id', true), '')::integer;

create function current_user_role() returns text language sql stable security definer set search_path = pg_catalog, public
return (select role from public.app_user where id = public.current_user_id() and disabled_at is null);

create function may_administer() returns boolean language sql stable
return coalesce(current_user_role() = 'admin', false);

-- The patients of the user's care team; administrators see everyone and need no list. Used as an uncorrelated
-- subquery, so that a scan of a million rows asks once.
create function seen_patients() returns setof integer language sql stable security definer set search_path = pg_catalog, public
begin atomic
    select t.patient_id from public.care_team t
    where t.user_id = public.current_user_id() and public.current_user_role() in ('doctor', 'nurse');
end;

create view observation_seen with (security_barrier) as select * from observation where ((select may_administer()) or patient_id in (select seen_patients()));
create view rr_series_seen with (security_barrier) as select * from rr_series where ((select may_administer()) or patient_id in (select seen_patients()));
create view device_status_seen with (security_barrier) as
    select s.* from device_status s
    where (select may_administer()) or s.device_key in (
        select device_key from assignment where patient_id in (select seen_patients()));

alter table patient enable row level security;
create policy seen on patient for select to vigil_api using ((select may_administer()) or id in (select seen_patients()));
alter table patient_timezone enable row level security;
create policy seen on patient_timezone for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
alter table expected_code enable row level security;
create policy seen on expected_code for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
alter table consent enable row level security;
create policy seen on consent for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
alter table care_team enable row level security;
create policy seen on care_team for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
alter table assignment enable row level security;
create policy seen on assignment for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
alter table device enable row level security;
create policy seen on device for select to vigil_api using (
    (select may_administer()) or exists (select from assignment a where a.device_key = key));
alter table pillbox_event enable row level security;
create policy seen on pillbox_event for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
alter table dose_schedule enable row level security;
create policy seen on dose_schedule for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
alter table dose enable row level security;
create policy seen on dose for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
alter table hrv_window enable row level security;
create policy seen on hrv_window for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
alter table hrv_night enable row level security;
create policy seen on hrv_night for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
alter table conflict enable row level security;
create policy seen on conflict for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
-- A refused message may belong to nobody that is known: those are the administrators' to see.
alter table quarantine enable row level security;
create policy seen on quarantine for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
alter table quarantine_count enable row level security;
create policy seen on quarantine_count for select to vigil_api using (may_administer());
alter table alert enable row level security;
create policy seen on alert for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
create policy handled on alert for update to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
alter table alert_history enable row level security;
create policy seen on alert_history for select to vigil_api
    using (exists (select from alert a where a.id = alert_id));
create policy written on alert_history for insert to vigil_api
    with check (actor = current_user_id() and exists (select from alert a where a.id = alert_id));
alter table outbox enable row level security;
create policy seen on outbox for select to vigil_api using ((select may_administer()) or patient_id in (select seen_patients()));
create policy written on outbox for insert to vigil_api with check ((select may_administer()) or patient_id in (select seen_patients()));

grant usage on schema public to vigil_api;
grant select on vocabulary_code, vocabulary_unit, vocabulary_conversion, vocabulary_flag, patient, patient_timezone,
    expected_code, consent, care_team, assignment, device, pillbox_event, dose_schedule, dose, hrv_window, hrv_night,
    conflict, quarantine, quarantine_count, alert, alert_history, outbox,
    observation_seen, rr_series_seen, device_status_seen to vigil_api;
grant update (state, acknowledged_by, acknowledged_at, snoozed_until, resolved_at, updated_at) on alert to vigil_api;
grant insert on alert_history, outbox to vigil_api;
-- Log-in happens before anybody is known.
grant select (id, email, role, password_hash, disabled_at) on app_user to vigil_api;
grant update (password_hash) on app_user to vigil_api;
grant select, insert, update on refresh_token to vigil_api;
