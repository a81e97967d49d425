-- name: readings
-- One code's readings of one patient from a time on, over all devices the patient ever had, in order of time; a page.
select to_ms(at), coalesce(value, 'NaN'), unit, flags from observation
where device_key = any(%(devices)s) and code = %(code)s and patient_id = %(patient)s and at >= from_ms(%(since)s)
order by at
limit %(limit)s;

-- name: newest_of
-- The newest reading of one code of each (patient, device) that has any, since the patient had the device.
select pair.patient, to_ms(newest.at)
from unnest(%(patient)s::int[], %(device)s::int[], %(since)s::bigint[]) as pair (patient, device, since)
cross join lateral (select o.at from observation o
                    where o.device_key = pair.device and o.code = %(code)s and o.patient_id = pair.patient
                      and o.at >= from_ms(pair.since)
                    order by o.at desc limit 1) newest;

-- name: alerts_since
-- The alerts of several rules for many patients that still run, or ended after an instant of each patient's own.
select a.patient_id, a.rule, a.subject, to_ms(a.opened_at), case when a.running then null else to_ms(a.resolved_at) end
from unnest(%(patient)s::int[], %(since)s::bigint[]) as asked (patient, since)
join alert a on a.patient_id = asked.patient and a.rule = any(%(rules)s) and a.state <> 'withdrawn'
    and (a.running or a.resolved_at >= from_ms(asked.since));

-- name: copy_readings
-- The readings of one code of many (patient, device) from an instant of each on, as rows of fixed width.
copy (
    select pair.patient, o.at, coalesce(o.value, 'NaN'), o.unit, o.flags
    from unnest(%(patient)s::int[], %(device)s::int[], %(since)s::bigint[]) as pair (patient, device, since)
    cross join lateral (select r.at, r.value, r.unit, r.flags from observation r
                        where r.device_key = pair.device and r.code = %(code)s and r.patient_id = pair.patient
                          and r.at >= from_ms(pair.since)
                        order by r.at limit %(limit)s) o
) to stdout (format binary);
