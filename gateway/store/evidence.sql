-- name: evidence_readings
-- One code's readings before an episode's beginning, for the doctor: time, value, unit, as sent.
select to_ms(o.at), o.value, u.ucum, flag_names(o.flags) from observation o join vocabulary_unit u on u.unit = o.unit
where o.device_key = any(%(devices)s) and o.code = %(code)s and o.patient_id = %(patient)s
  and o.at between from_ms(%(since)s) and from_ms(%(until)s)
order by o.at desc
limit 200;

-- name: evidence_heart_rate
-- Mean heart rate of the night so far, /min.
select avg(value), count(*) from observation
where device_key = any(%(devices)s) and code = 2 and patient_id = %(patient)s
  and at between from_ms(%(since)s) and from_ms(%(until)s);

-- name: evidence_hrv
-- Median RMSSD of the valid 5-min windows of the night so far, ms.
select percentile_cont(0.5) within group (order by rmssd), count(*) from hrv_window
where patient_id = %(patient)s and valid and window_start between from_ms(%(since)s) and from_ms(%(until)s);

-- name: evidence_doses
-- The doses of the last 24 h with their states.
select s.medication, to_ms(d.due_at), d.state, to_ms(d.taken_at) from dose d join dose_schedule s on s.id = d.schedule_id
where d.patient_id = %(patient)s and d.due_at between from_ms(%(since)s) and from_ms(%(until)s)
order by d.due_at;
