-- name: doses
-- A patient's doses due in an interval, with the medication they are of.
select s.medication, d.schedule_id, to_ms(d.due_at) as due_at, to_ms(d.window_start) as window_start,
       to_ms(d.window_end) as window_end, d.state, to_ms(d.taken_at) as taken_at
from dose d join dose_schedule s on s.id = d.schedule_id
where d.patient_id = %(patient)s and d.due_at >= %(start)s and d.due_at < %(end)s
order by s.medication, d.due_at, d.schedule_id
