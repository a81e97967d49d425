-- name: running
-- Running alerts of some rules for some patients, with when they began, in ms.
select id, patient_id, rule, subject, to_ms(opened_at) as opened_at
from alert
where rule = any(%(rules)s) and patient_id = any(%(patients)s) and running and state <> 'withdrawn'
order by patient_id, id;
