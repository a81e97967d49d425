-- name: readings
-- One code's readings of one patient from a time on, over all devices the patient ever had, in order of time; a page.
select to_ms(at), coalesce(value, 'NaN'), unit, flags from observation
where device_key = any(%(devices)s) and code = %(code)s and patient_id = %(patient)s and at >= from_ms(%(since)s)
order by at
limit %(limit)s;
