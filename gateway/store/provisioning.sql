-- name: take_turn
-- One provisioning of devices at a time: the lock lasts for the session, beyond transactions, while the broker is asked.
select pg_advisory_lock(7316, 2);

-- name: end_turn
-- Lets the next provisioning of devices begin.
select pg_advisory_unlock(7316, 2);

-- name: patient_ids
-- Reserves identities for new patients.
select nextval(pg_get_serial_sequence('patient', 'id'))::integer as id from generate_series(1, %(count)s);

-- name: add_patients
-- New patients, with the identities reserved for them.
insert into patient (id, name, hypoglycaemia_risk, patient_group, created_at)
overriding system value
select id, name, hypoglycaemia_risk, patient_group, %(now)s
from unnest(%(ids)s::integer[], %(names)s::text[], %(risks)s::boolean[], %(groups)s::text[])
    as given (id, name, hypoglycaemia_risk, patient_group);

-- name: add_first_timezones
-- The zone each new patient has always lived by, as far as we know.
insert into patient_timezone (patient_id, valid_from, timezone)
select id, '-infinity', timezone from unnest(%(ids)s::integer[], %(timezones)s::text[]) as given (id, timezone);

-- name: add_first_consents
-- Consent for all there is of these patients, past and future.
insert into consent (patient_id, valid, recorded_at)
select id, tstzrange('-infinity', null), %(now)s from unnest(%(ids)s::integer[]) as given (id);

-- name: add_expected_codes
-- What new patients are expected to send, and how often.
insert into expected_code (patient_id, code, expected_interval)
select id, code, expected_interval
from unnest(%(ids)s::integer[], %(codes)s::smallint[], %(intervals)s::interval[]) as given (id, code, expected_interval);

-- name: expect_no_others
-- The patient is expected to send none but these.
delete from expected_code where patient_id = %(patient_id)s and code <> all(%(codes)s::smallint[]);

-- name: expect
-- What a patient is expected to send, and how often.
insert into expected_code (patient_id, code, expected_interval)
select %(patient_id)s, code, expected_interval
from unnest(%(codes)s::smallint[], %(intervals)s::interval[]) as given (code, expected_interval)
on conflict (patient_id, code) do update set expected_interval = excluded.expected_interval;

-- name: lock_patient
-- The patient, held so that two changes to one patient's consent or zone come one after the other.
select id from patient where id = %(patient_id)s for update;

-- name: missing_patients
-- Which of these patients do not exist.
select id from unnest(%(ids)s::integer[]) as given (id) where not exists (select from patient p where p.id = given.id)
order by id limit 5;

-- name: list_patients
-- Everyone who is watched, with today's zone and whether a consent covers today.
select p.id, p.name, p.hypoglycaemia_risk, p.patient_group as "group",
       coalesce(zone.timezone, 'UTC') as timezone,
       exists (select from consent c where c.patient_id = p.id and c.valid @> %(now)s::timestamptz) as consent,
       coalesce((select array_agg(d.id order by d.id) from assignment a join device d on d.key = a.device_key
                 where a.patient_id = p.id and a.valid @> %(now)s::timestamptz), '{}') as devices
from patient p left join lateral zone_at(p.id, %(now)s) zone on true
order by p.id;

-- name: timezone_now
-- The zone a patient lives by at a time.
select timezone from zone_at(%(patient_id)s, %(at)s);

-- name: set_timezone
-- From then on the patient lives by this zone (until the next entry, if there is a later one).
insert into patient_timezone (patient_id, valid_from, timezone)
values (%(patient_id)s, coalesce(%(since)s::timestamptz, '-infinity'), %(timezone)s)
on conflict (patient_id, valid_from) do update set timezone = excluded.timezone;

-- name: shorten_consent
-- Ends at this time the consent that covers it.
update consent set valid = tstzrange(lower(valid), %(at)s), recorded_at = %(now)s
where patient_id = %(patient_id)s and valid @> %(at)s::timestamptz and coalesce(lower(valid), '-infinity') < %(at)s
returning id;

-- name: drop_later_consents
-- Removes consents that would begin at this time or later.
delete from consent where patient_id = %(patient_id)s and lower(valid) >= %(at)s returning id;

-- name: consent_covers
-- Whether a consent covers this time.
select exists (select from consent where patient_id = %(patient_id)s and valid @> %(at)s::timestamptz);

-- name: give_consent
-- Consent from this time on, until a later consent that is already there.
insert into consent (patient_id, valid, recorded_at)
select %(patient_id)s, tstzrange(%(at)s, (
           select min(lower(valid)) from consent where patient_id = %(patient_id)s and lower(valid) > %(at)s)), %(now)s;

-- name: known_devices
-- Which of these device ids are taken.
select id from device where id = any(%(ids)s::text[]) order by id limit 5;

-- name: edges
-- The edge boxes among these ids.
select id from device where id = any(%(ids)s::text[]) and model = 'edge';

-- name: add_devices
-- New devices; the edge boxes they are read by must be there already, or come without one in the same statement.
insert into device (id, model, address, modality, expected_interval, created_at)
select id, model, address, modality, expected_interval, %(now)s
from unnest(%(ids)s::text[], %(models)s::text[], %(addresses)s::text[], %(modalities)s::text[], %(intervals)s::interval[])
    as given (id, model, address, modality, expected_interval);

-- name: lock_edges
-- Edge boxes, held so that two changes to what one of them reads come one after the other.
select from device where id = any(%(vias)s::text[]) order by key for no key update;

-- name: bind_devices
-- Says which edge box reads each of these devices, and by which address.
update device d set via = e.key, address = given.address
from unnest(%(ids)s::text[], %(vias)s::text[], %(addresses)s::text[]) as given (id, via, address)
join device e on e.id = given.via
where d.id = given.id;

-- name: full_edges
-- Edge boxes among these that read too many devices.
select e.id from device e join device d on d.via = e.key and d.address is not null
where e.id = any(%(vias)s::text[])
group by e.id having count(*) > %(most)s order by e.id;

-- name: unbind_device
-- No edge box reads the device any more; gives nothing back when none did.
update device set via = null where key = %(device_key)s and via is not null returning id;

-- name: add_assignments
-- Who wears each of these devices; the database refuses a second wearer at the same time.
insert into assignment (device_key, patient_id, valid, created_at)
select d.key, given.patient_id, tstzrange(given.since, given.until), %(now)s
from unnest(%(ids)s::text[], %(patient_ids)s::integer[], %(sinces)s::timestamptz[], %(untils)s::timestamptz[])
    as given (id, patient_id, since, until)
join device d on d.id = given.id;

-- name: lock_device
-- The device, held so that two changes to one device come one after the other.
select key, model, disabled_at from device where id = %(device_id)s for update;

-- name: wears_from
-- Whether this patient wears the device from this time on without an end.
select exists (select from assignment
               where device_key = %(device_key)s and patient_id = %(patient_id)s
                 and valid @> %(since)s::timestamptz and upper_inf(valid));

-- name: end_assignment
-- Ends at this time the assignment without an end that began before it.
update assignment set valid = tstzrange(lower(valid), %(at)s)
where device_key = %(device_key)s and upper_inf(valid) and coalesce(lower(valid), '-infinity') < %(at)s
returning id;

-- name: overlapping_assignment
-- The first assignment of the device that overlaps these times, and its wearer.
select a.patient_id, p.name, nullif(lower(a.valid), '-infinity') as since, nullif(upper(a.valid), 'infinity') as until
from assignment a join patient p on p.id = a.patient_id
where a.device_key = %(device_key)s and a.valid && tstzrange(%(since)s, %(until)s)
order by a.valid limit 1;

-- name: set_disabled
-- Disables the device (a time) or enables it (null).
update device set disabled_at = %(disabled_at)s where key = %(device_key)s;

-- name: list_devices
-- Every device with its present wearer.
select d.id, d.model, d.address, e.id as via, d.disabled_at, a.patient_id, s.contact_at, s.battery, d.modality,
       d.expected_interval
from device d
left join device e on e.key = d.via
left join assignment a on a.device_key = d.key and a.valid @> %(now)s::timestamptz
left join device_status s on s.device_key = d.key
order by d.id;

-- name: add_dose
-- A new schedule of doses.
insert into dose_schedule (patient_id, medication, local_times, weekdays, compartment, window_before, window_after,
                           valid_from, valid_until, critical, created_at)
values (%(patient_id)s, %(medication)s, %(local_times)s, %(weekdays)s, %(compartment)s, %(window_before)s, %(window_after)s,
        %(valid_from)s, %(valid_until)s, %(critical)s, %(now)s)
returning id;

-- name: list_doses
-- The schedules of one patient, or of everyone.
select id, patient_id, medication, local_times, weekdays, compartment, window_before, window_after,
       valid_from, valid_until, critical
from dose_schedule
where %(patient_id)s::integer is null or patient_id = %(patient_id)s
order by patient_id, id;

-- name: add_user
-- A new account for a person or a program; gives nothing back when the address is taken.
insert into app_user (email, role, password_hash, created_at)
values (%(email)s, %(role)s, %(password_hash)s, %(now)s)
on conflict (email) do nothing
returning id;

-- name: user_id
-- The account with this address.
select id from app_user where email = %(email)s;

-- name: add_to_care_team
-- Lets a user see these patients; those seen already stay.
insert into care_team (user_id, patient_id, added_at)
select %(user_id)s, id, %(now)s from unnest(%(patient_ids)s::integer[]) as given (id)
on conflict do nothing;

-- name: disable_user
-- Ends a user's access: no log-in, and every refresh token is void.
with disabled as (
    update app_user set disabled_at = coalesce(disabled_at, %(now)s) where email = %(email)s returning id
), revoked as (
    update refresh_token set revoked_at = %(now)s
    where user_id in (select id from disabled) and revoked_at is null
)
select id from disabled;

-- name: list_users
-- Every user with the patients of the care teams they are in.
select u.id, u.email, u.role, u.disabled_at,
       coalesce((select array_agg(t.patient_id order by t.patient_id) from care_team t where t.user_id = u.id), '{}')
           as patient_ids
from app_user u
order by u.email;
