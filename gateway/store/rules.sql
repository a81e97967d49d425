-- name: groups
-- Which group a patient (null: every one) belonged to from when on, in ms; null: always; oldest first.
select patient_id, case when isfinite(valid_from) then to_ms(valid_from) end as since_ms, patient_group as "group"
from patient_group_history
where %(patient)s::integer is null or patient_id = %(patient)s
order by patient_id, valid_from;

-- name: changes
-- What was set for one rule after the other: by the clinic (no patient), and for a patient (null: every one); oldest first.
select id, patient_id, rule, changes, to_ms(valid_from) as since_ms
from rule_setting
where patient_id is null or %(patient)s::integer is null or patient_id = %(patient)s
order by valid_from, id;

-- name: pauses
-- When a patient (null: every one) rests, from when on and before when, in ms; oldest first.
select patient_id, to_ms(lower(valid)) as start, to_ms(upper(valid)) as "end"
from pause
where %(patient)s::integer is null or patient_id = %(patient)s
order by patient_id, lower(valid);
