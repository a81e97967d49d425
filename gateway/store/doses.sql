-- name: patients_due
-- Patients with something to settle, and the oldest dose that it is about (null: none in particular): schedules that
-- changed or whose doses are not computed far enough, deadlines, boxes that came back, pauses that began while adherence
-- was low. Each branch reads only what is due, by its index; of every box that is awaited, only the oldest dose.
with recursive awaited as (
    (select awaits, window_end, patient_id, due_at from dose where awaits is not null
     order by awaits, window_end limit 1)
    union all
    select next.* from awaited a
    cross join lateral (select d.awaits, d.window_end, d.patient_id, d.due_at from dose d
                        where d.awaits > a.awaits order by d.awaits, d.window_end limit 1) next
), due as (
    select patient_id, null::timestamptz as due_at from dose_schedule where computed_until is null
    union all
    select patient_id, null from dose_schedule where computed_until < from_ms(%(horizon)s)
    union all
    select patient_id, due_at from dose where judge_at <= from_ms(%(now)s)
    union all
    select a.patient_id, a.due_at
    from awaited a
    cross join lateral pillbox_contact(a.awaits, a.window_end) box
    where box.stamp >= a.window_end and not box.missing
    union all
    select low.patient_id, null
    from alert low join pause p on p.patient_id = low.patient_id and p.valid @> from_ms(%(now)s)
    where low.rule = 'low_adherence' and low.running and low.state <> 'withdrawn'
      and exists (select from dose_schedule s where s.patient_id = low.patient_id)
)
select patient_id, to_ms(min(due_at)) from due where patient_id <> all(%(without)s::int[])
group by patient_id order by min(due_at) nulls first, patient_id limit %(limit)s;

-- name: schedules
-- A patient's dose schedules; `stale` where the doses are to be computed from the beginning.
select id, medication, local_times, weekdays, compartment,
       (extract(epoch from window_before) * 1000)::bigint as window_before_ms,
       (extract(epoch from window_after) * 1000)::bigint as window_after_ms,
       valid_from, valid_until, critical, to_ms(created_at) as created_at, version, computed_until is null as stale
from dose_schedule where patient_id = %(patient)s
order by id;

-- name: events
-- What a patient's boxes said about doses from a time on.
select to_ms(at), type, compartment, count from pillbox_event
where patient_id = %(patient)s and at >= from_ms(%(since)s)
  and type in ('compartment_opened', 'dose_taken', 'dose_skipped');

-- name: known_doses
-- What is known of a patient's doses from a time on.
select d.schedule_id, to_ms(d.due_at) as due_at, to_ms(d.window_start) as window_start,
       to_ms(d.window_end) as window_end, s.compartment, s.critical,
       d.window_end >= s.created_at - interval '1 day' as alerts, d.state, to_ms(d.taken_at) as taken_at,
       to_ms(d.skipped_at) as skipped_at, to_ms(d.doubled_at) as doubled_at, to_ms(d.contact_seen_at) as contact_seen_at
from dose d join dose_schedule s on s.id = d.schedule_id
where d.patient_id = %(patient)s and d.due_at >= from_ms(%(since)s);

-- name: judged_doses
-- The same of doses due after a time of which something is known, and that are not too old to alert on.
select d.schedule_id, to_ms(d.due_at) as due_at, to_ms(d.window_start) as window_start,
       to_ms(d.window_end) as window_end, s.compartment, s.critical,
       d.window_end >= s.created_at - interval '1 day' as alerts, d.state, to_ms(d.taken_at) as taken_at,
       to_ms(d.skipped_at) as skipped_at, to_ms(d.doubled_at) as doubled_at, to_ms(d.contact_seen_at) as contact_seen_at
from dose d join dose_schedule s on s.id = d.schedule_id
where d.patient_id = %(patient)s and d.due_at > from_ms(%(since)s) and d.state not in ('due', 'unknown')
  and d.window_end >= s.created_at - interval '1 day';

-- name: boxes
-- The pill boxes a patient has or had since a time, from when to when, and how far each told everything.
select a.device_key, to_ms(lower(a.valid)) as since, to_ms(upper(a.valid)) as until, to_ms(box.stamp) as stamp,
       to_ms(box.seen_at) as seen_at, box.missing
from assignment a cross join lateral pillbox_contact(a.device_key, from_ms(%(since)s)) box
where a.patient_id = %(patient)s and a.valid && tstzrange(from_ms(%(since)s), null)
order by a.device_key, lower(a.valid);

-- name: write
-- Writes what became of doses; untouched rows stay untouched.
insert into dose (schedule_id, patient_id, due_at, window_start, window_end, state, taken_at, skipped_at, doubled_at,
                  contact_seen_at, judge_at, awaits, updated_at)
select schedule_id, %(patient)s, from_ms(due_at), from_ms(window_start), from_ms(window_end), state, from_ms(taken_at),
       from_ms(skipped_at), from_ms(doubled_at), from_ms(contact_seen_at), from_ms(judge_at), awaits, from_ms(%(now)s)
from unnest(%(schedule_id)s::int[], %(due_at)s::bigint[], %(window_start)s::bigint[], %(window_end)s::bigint[],
            %(state)s::text[], %(taken_at)s::bigint[], %(skipped_at)s::bigint[], %(doubled_at)s::bigint[],
            %(contact_seen_at)s::bigint[], %(judge_at)s::bigint[], %(awaits)s::int[])
    as d (schedule_id, due_at, window_start, window_end, state, taken_at, skipped_at, doubled_at, contact_seen_at,
          judge_at, awaits)
on conflict (schedule_id, due_at) do update set
    window_start = excluded.window_start, window_end = excluded.window_end, state = excluded.state,
    taken_at = excluded.taken_at, skipped_at = excluded.skipped_at, doubled_at = excluded.doubled_at,
    contact_seen_at = excluded.contact_seen_at, judge_at = excluded.judge_at, awaits = excluded.awaits,
    updated_at = excluded.updated_at
where (dose.window_start, dose.window_end, dose.state, dose.taken_at, dose.skipped_at, dose.doubled_at,
       dose.contact_seen_at, dose.judge_at, dose.awaits)
      is distinct from (excluded.window_start, excluded.window_end, excluded.state, excluded.taken_at,
       excluded.skipped_at, excluded.doubled_at, excluded.contact_seen_at, excluded.judge_at, excluded.awaits);

-- name: forget
-- Removes doses that are not due any more since the schedule, or the zone, changed; tells which those were.
delete from dose d
where d.patient_id = %(patient)s and d.due_at >= from_ms(%(since)s)
  and not exists (select from unnest(%(schedule_id)s::int[], %(due_at)s::bigint[]) as k (schedule_id, due_at)
                  where k.schedule_id = d.schedule_id and from_ms(k.due_at) = d.due_at)
returning d.schedule_id, to_ms(d.due_at);

-- name: computed
-- Notes how far doses have their rows ('infinity': all there will ever be), unless the schedule changed meanwhile.
update dose_schedule s
set computed_until = case when s.valid_until < (from_ms(%(until)s) - interval '2 days')::date then 'infinity'
                          else from_ms(%(until)s) end
from unnest(%(id)s::int[], %(version)s::int[]) as seen (id, version)
where s.id = seen.id and s.version = seen.version
  and (s.computed_until is null or s.computed_until < from_ms(%(until)s) - interval '12 hours');

-- name: remind
-- Asks every box the patient has now to remind.
insert into command (device_key, type, payload, created_at, expires_at)
select box.key, 'remind', %(payload)s, from_ms(%(now)s), from_ms(%(expires)s)
from assignment a join device box on box.key = a.device_key and box.model = 'pillbox'
where a.patient_id = %(patient)s and a.valid @> from_ms(%(now)s);

-- name: notify_commands
-- Wakes the worker that sends commands.
select pg_notify('vigil_commands', '');
