-- name: groups
-- Which groups a patient (null: every one) belonged to, oldest first, each from when on, in ms; null: always.
select patient_id, array_agg(case when isfinite(valid_from) then to_ms(valid_from) end order by valid_from) as sinces,
       array_agg(patient_group order by valid_from) as groups
from patient_group_history
where %(patient)s::integer is null or patient_id = %(patient)s
group by patient_id;

-- name: shares
-- The same of all patients, those together whose groups were always the same.
select sinces, groups, array_agg(patient_id) as patients
from (
    select patient_id, array_agg(case when isfinite(valid_from) then to_ms(valid_from) end order by valid_from) as sinces,
           array_agg(patient_group order by valid_from) as groups
    from patient_group_history group by patient_id
) belonged
group by sinces, groups;

-- name: changes
-- What was set for one rule after the other: by the clinic (no patient), and for a patient (null: every one); oldest first.
select id, patient_id, rule, changes::text as json, to_ms(valid_from) as since_ms
from rule_setting
where patient_id is null or %(patient)s::integer is null or patient_id = %(patient)s
order by valid_from, id;

-- name: pauses
-- When a patient (null: every one) rests, from when on and before when, in ms; oldest first.
select patient_id, to_ms(lower(valid)) as start, to_ms(upper(valid)) as "end"
from pause
where %(patient)s::integer is null or patient_id = %(patient)s
order by patient_id, lower(valid);

-- name: lock_clinic
-- Only one at a time changes the rules of the whole clinic, and nobody a patient's meanwhile.
select pg_advisory_xact_lock(7317, 0);

-- name: lock_patient
-- Only one at a time changes a patient's rules, and nobody the clinic's meanwhile.
select pg_advisory_xact_lock_shared(7317, 0), pg_advisory_xact_lock(7317, %(patient)s);

-- name: patient_exists
-- Whether there is such a patient (of those the user may see).
select exists (select from patient where id = %(patient)s);

-- name: instant
-- When something set now begins: now, or just after what a moment ago was set for the patient, the clinic, or (no patient)
-- anybody, so that of changes that bear on each other the later one holds.
select coalesce(max(valid_from) + interval '1 ms', %(now)s)
from (
    select valid_from from rule_setting
    where %(patient)s::integer is null or patient_id is null or patient_id = %(patient)s
    union all
    select valid_from from patient_group_history where %(patient)s::integer is null or patient_id = %(patient)s
) said
where valid_from >= %(now)s and valid_from < %(now)s + interval '1 min';

-- name: add_setting
-- What holds for one rule from now on, for a patient or (null) the clinic.
insert into rule_setting (patient_id, rule, changes, valid_from, changed_by, note)
values (%(patient)s, %(rule)s, %(changes)s, %(at)s, %(by)s, %(note)s);

-- name: add_group
-- The group a patient belongs to from now on.
insert into patient_group_history (patient_id, valid_from, patient_group, changed_by, note)
values (%(patient)s, %(at)s, %(group)s, %(by)s, %(note)s);

-- name: overlapping_pause
-- The first pause of a patient that overlaps these times.
select lower(valid), upper(valid) from pause
where patient_id = %(patient)s and valid && tstzrange(%(begin)s, %(until)s)
order by lower(valid) limit 1;

-- name: add_pause
-- A patient rests, from a time on and before another.
insert into pause (patient_id, valid, reason, recorded_at, changed_by)
values (%(patient)s, tstzrange(%(begin)s, %(until)s), %(reason)s, %(now)s, %(by)s)
returning id, lower(valid) as begin, upper(valid) as until, reason, recorded_at, changed_by, ended_at, ended_by;

-- name: next_pause
-- The pause a patient is in, or else the next one that is planned.
select id, lower(valid) as begin, upper(valid) as until, reason, recorded_at, changed_by, ended_at, ended_by
from pause
where patient_id = %(patient)s and upper(valid) > %(now)s
order by lower(valid) limit 1;

-- name: end_pause
-- A pause that has begun ends now.
update pause set valid = tstzrange(lower(valid), %(now)s), ended_at = %(now)s, ended_by = %(by)s where id = %(pause)s;

-- name: remove_pause
-- A pause that has not begun does not come.
delete from pause where id = %(pause)s;

-- name: list_pauses
-- A patient's pauses, the latest first.
select id, lower(valid) as begin, upper(valid) as until, reason, recorded_at, changed_by, ended_at, ended_by
from pause
where patient_id = %(patient)s
order by lower(valid) desc limit %(limit)s;

-- name: history
-- What was set for a patient's rules, by whom and why, for the clinic and the group too (no patient: the clinic), latest first.
select case when s.patient_id is null then 'clinic' else 'patient' end as layer, s.rule, s.changes, s.valid_from,
       s.changed_by, u.email as changed_by_email, s.note
from rule_setting s left join app_user u on u.id = s.changed_by
where s.patient_id is null or s.patient_id = %(patient)s
union all
select 'group', null, jsonb_build_object('group', g.patient_group), g.valid_from, g.changed_by, u.email, g.note
from patient_group_history g left join app_user u on u.id = g.changed_by
where g.patient_id = %(patient)s and isfinite(g.valid_from)
order by valid_from desc, layer limit %(limit)s;
