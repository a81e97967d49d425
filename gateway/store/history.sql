-- name: patients
-- Which of some patients exist, and for which of them a signal that is lost at night matters.
select p.id, p.hypoglycaemia_risk and exists (
    select from expected_code e
    where e.patient_id = p.id and e.code = 1 and e.expected_interval <= interval '15 min')
from patient p where p.id = any(%(patients)s);

-- name: readings
-- One code's readings of one patient in [since, until), over all devices the patient ever had, in order of time.
select to_ms(at), coalesce(value, 'NaN'), unit, flags from observation
where device_key = any(array(select d.device_key from devices_of(%(patient)s) d))
  and code = %(code)s and patient_id = %(patient)s and at >= from_ms(%(since)s) and at < from_ms(%(until)s)
order by at;

-- name: nights
-- All nights of a patient that were over at a time.
select night, to_ms(starts_at) as starts_at, to_ms(ends_at) as ends_at, windows, rmssd, sdnn, mean_heart_rate, ln_rmssd,
       modality
from hrv_night where patient_id = %(patient)s and ends_at <= from_ms(%(until)s)
order by night;

-- name: doses
-- Every dose of a patient whose window was over at a time, with what of its schedule the rules ask for.
select d.schedule_id, to_ms(d.due_at) as due_at, to_ms(d.window_start) as window_start,
       to_ms(d.window_end) as window_end, s.compartment, s.critical,
       d.window_end >= s.created_at - interval '1 day' as alerts, d.state, to_ms(d.taken_at) as taken_at,
       to_ms(d.skipped_at) as skipped_at, to_ms(d.doubled_at) as doubled_at,
       to_ms(d.contact_seen_at) as contact_seen_at
from dose d join dose_schedule s on s.id = d.schedule_id
where d.patient_id = %(patient)s and d.window_end <= from_ms(%(until)s)
order by d.due_at, d.schedule_id;
