-- name: patients
-- The patients the user may see, by name.
select p.id::text, p.name, zone.timezone, p.patient_group as group, p.hypoglycaemia_risk,
       exists (select from consent c where c.patient_id = p.id and c.valid @> %(now)s) as consent, p.created_at
from patient p
left join lateral zone_at(p.id, %(now)s) zone on true
where (%(after_name)s::text is null or (p.name, p.id) > (%(after_name)s, %(after_id)s::bigint))
order by p.name, p.id limit %(limit)s

-- name: patient
-- One patient, with zones, expected codes and what is worn now.
select p.id::text, p.name, zone.timezone, p.patient_group as group, p.hypoglycaemia_risk,
       exists (select from consent c where c.patient_id = p.id and c.valid @> %(now)s) as consent, p.created_at,
       (select jsonb_agg(jsonb_build_object('timezone', z.timezone, 'valid_from', nullif(z.valid_from, '-infinity'))
                         order by z.valid_from)
        from patient_timezone z where z.patient_id = p.id) as timezones,
       (select coalesce(jsonb_agg(jsonb_build_object('code', v.name,
                                                     'interval_seconds', extract(epoch from e.expected_interval))
                                  order by v.name), '[]')
        from expected_code e join vocabulary_code v on v.code = e.code where e.patient_id = p.id) as expected,
       (select coalesce(jsonb_agg(jsonb_build_object('id', d.id, 'model', d.model,
                                                     'since', nullif(lower(a.valid), '-infinity')) order by d.id), '[]')
        from assignment a join device d on d.key = a.device_key
        where a.patient_id = p.id and a.valid @> %(now)s) as devices
from patient p
left join lateral zone_at(p.id, %(now)s) zone on true
where p.id = %(patient)s

-- name: patient_exists
-- Whether the user may see the patient.
select exists (select from patient where id = %(patient)s)

-- name: hrv_nights
-- The nights of the last days, oldest first; a night bears the local date on which it ends.
select n.night, n.starts_at, n.ends_at, n.modality, n.windows, n.rmssd, n.sdnn, n.mean_heart_rate, n.ln_rmssd, n.baseline,
       n.baseline - 0.5 * n.baseline_sd as band_low, n.baseline + 0.5 * n.baseline_sd as band_high,
       n.rolling_mean, n.z, n.drift
from hrv_night n
where n.patient_id = %(patient)s
  and n.night > (%(now)s at time zone coalesce((select timezone from zone_at(%(patient)s, %(now)s)), 'UTC'))::date - %(days)s
order by n.night

-- name: doses
-- The doses due in an interval, oldest first.
select d.id::text, d.schedule_id::text, s.medication, s.compartment, s.critical, d.due_at, d.window_start, d.window_end,
       d.state, d.taken_at
from dose d join dose_schedule s on s.id = d.schedule_id
where d.patient_id = %(patient)s and d.due_at >= %(start)s and d.due_at < %(end)s
  and (%(after_due)s::timestamptz is null or (d.due_at, d.id) > (%(after_due)s, %(after_id)s::bigint))
order by d.due_at, d.id limit %(limit)s

-- name: patient_devices
-- Every device that the patient ever had.
select coalesce(array_agg(device_key), '{}') from devices_of(%(patient)s)
