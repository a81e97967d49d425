-- name: lock_patient
-- Only one process settles a patient's doses at a time.
select id from patient where id = %(patient)s for no key update;

-- name: patients_due
-- Patients with something to settle: doses not computed far enough, windows that closed, boxes that came back. Locked.
select p.id from patient p
where p.id in (
    select s.patient_id from dose_schedule s
    where (s.computed_until is null or s.computed_until < from_ms(%(horizon)s))
      and (s.valid_until is null or s.valid_until >= (from_ms(%(now)s) - interval '3 days')::date)
    union
    select d.patient_id from dose d
    where d.state = 'due' and d.window_end <= from_ms(%(now)s - %(grace)s)
      and (d.contact_seen_at is null or d.contact_seen_at <= from_ms(%(now)s - %(grace)s))
    union
    select d.patient_id from dose d
    where d.state = 'unknown' and d.contact_seen_at <= from_ms(%(now)s - %(grace)s)
    union
    select d.patient_id
    from dose d
    join assignment a on a.patient_id = d.patient_id and a.valid @> from_ms(%(now)s)
    join device box on box.key = a.device_key and box.model = 'pillbox'
    join device_status s on s.device_key = box.key
    where d.state in ('due', 'unknown') and d.window_end <= from_ms(%(now)s) and d.contact_seen_at is null
      and s.contact_stamp >= d.window_end
)
order by p.id
limit %(limit)s
for no key update skip locked;

-- name: schedules
-- A patient's dose schedules.
select id, medication, local_times, weekdays, compartment,
       (extract(epoch from window_before) * 1000)::bigint as window_before_ms,
       (extract(epoch from window_after) * 1000)::bigint as window_after_ms,
       valid_from, valid_until, critical, to_ms(created_at) as created_at
from dose_schedule where patient_id = %(patient)s
order by id;

-- name: timezones
-- The zones a patient lives by; the first one begins before all time.
select case when valid_from = '-infinity' then null else to_ms(valid_from) end, timezone
from patient_timezone where patient_id = %(patient)s order by valid_from;

-- name: events
-- What a patient's boxes said about doses from a time on.
select to_ms(at), type, compartment, count from pillbox_event
where patient_id = %(patient)s and at >= from_ms(%(since)s)
  and type in ('compartment_opened', 'dose_taken', 'dose_skipped');

-- name: known_doses
-- What is known of a patient's doses from a time on.
select schedule_id, to_ms(due_at), state, to_ms(contact_seen_at) from dose
where patient_id = %(patient)s and due_at >= from_ms(%(since)s);

-- name: contact
-- The boxes a patient has now: newest stamp without a gap before it, when it came, whether messages are missing.
select to_ms(s.contact_stamp), to_ms(s.contact_at), coalesce(not isempty(r.above), false)
from assignment a
join device box on box.key = a.device_key and box.model = 'pillbox'
left join device_status s on s.device_key = box.key
left join receipt r on r.device_key = box.key
where a.patient_id = %(patient)s and a.valid @> from_ms(%(now)s);

-- name: write
-- Writes what became of doses; untouched rows stay untouched.
insert into dose (schedule_id, patient_id, due_at, window_start, window_end, state, taken_at, contact_seen_at, updated_at)
select schedule_id, %(patient)s, from_ms(due_at), from_ms(window_start), from_ms(window_end), state, from_ms(taken_at),
       from_ms(contact_seen_at), from_ms(%(now)s)
from unnest(%(schedule_id)s::int[], %(due_at)s::bigint[], %(window_start)s::bigint[], %(window_end)s::bigint[],
            %(state)s::text[], %(taken_at)s::bigint[], %(contact_seen_at)s::bigint[])
    as d (schedule_id, due_at, window_start, window_end, state, taken_at, contact_seen_at)
on conflict (schedule_id, due_at) do update set
    state = excluded.state, taken_at = excluded.taken_at, contact_seen_at = excluded.contact_seen_at,
    updated_at = excluded.updated_at
where (dose.state, dose.taken_at, dose.contact_seen_at)
      is distinct from (excluded.state, excluded.taken_at, excluded.contact_seen_at);

-- name: forget
-- Removes doses that are not due any more since the schedule or the zone changed; only those nobody settled.
delete from dose d where d.patient_id = %(patient)s and d.state in ('due', 'unknown') and d.due_at >= from_ms(%(since)s)
  and not exists (select from unnest(%(schedule_id)s::int[], %(due_at)s::bigint[]) as k (schedule_id, due_at)
                  where k.schedule_id = d.schedule_id and from_ms(k.due_at) = d.due_at);

-- name: computed
-- Notes how far a patient's doses have their rows.
update dose_schedule set computed_until = from_ms(%(until)s) where patient_id = %(patient)s;

-- name: remind
-- Asks every box the patient has now to remind; returns how many commands that made.
insert into command (device_key, type, payload, created_at, expires_at)
select box.key, 'remind', %(payload)s, from_ms(%(now)s), from_ms(%(expires)s)
from assignment a join device box on box.key = a.device_key and box.model = 'pillbox'
where a.patient_id = %(patient)s and a.valid @> from_ms(%(now)s);

-- name: notify_commands
-- Wakes the worker that sends commands.
select pg_notify('vigil_commands', '');
