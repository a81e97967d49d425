-- name: patient_name
-- What the patient is called.
select name from patient where id = %(patient)s

-- name: heart_rate
-- Mean heart rate of each minute of an interval that has one, over all devices; not of artifacts and of bands that are not worn.
select to_ms(date_bin('1 min', o.at, timestamptz 'epoch')) as at, avg(o.value) as value
from observation_seen o
where o.device_key = any(%(devices)s::integer[]) and o.patient_id = %(patient)s and o.code = %(code)s::smallint
  and o.at >= from_ms(%(start)s) and o.at < from_ms(%(end)s) and o.value is not null and o.flags & %(unusable)s::smallint = 0
group by 1 order by 1

-- name: alerts
-- The alerts of a patient that were open at any time of an interval, the gravest first, as many as could be drawn and more.
select a.rule, a.severity, to_ms(a.opened_at) as opened_at, to_ms(a.resolved_at) as resolved_at, a.summary
from alert a
where a.patient_id = %(patient)s and a.state <> 'withdrawn' and a.opened_at < from_ms(%(end)s)
  and (a.resolved_at is null or a.resolved_at >= from_ms(%(start)s))
order by array_position(array['urgent', 'high', 'medium', 'low'], a.severity), a.opened_at limit 500

-- name: doses
-- The doses that were due or taken in an interval, as many as could be drawn and more.
select s.medication, to_ms(d.due_at) as due_at, to_ms(d.taken_at) as taken_at, d.state
from dose d join dose_schedule s on s.id = d.schedule_id
where d.patient_id = %(patient)s
  and ((d.due_at >= from_ms(%(start)s) and d.due_at < from_ms(%(end)s))
       or (d.due_at >= from_ms(%(start)s) - interval '12 hours' and d.due_at < from_ms(%(end)s) + interval '12 hours'
           and d.taken_at >= from_ms(%(start)s) and d.taken_at < from_ms(%(end)s)))
order by d.due_at, d.id limit 500
