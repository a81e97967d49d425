-- name: devices
-- The devices the user may see, by id, with who wears them now and what they last said of themselves.
select d.id, d.model, d.address, via.id as via, worn.patient_id::text, d.disabled_at, d.created_at,
       case when s.device_key is not null then jsonb_build_object(
           'online', s.online, 'battery', s.battery, 'firmware', s.firmware, 'status_at', s.status_at,
           'contact_at', s.contact_at, 'clock_offset_ms', s.clock_offset_ms) end as status
from device d
left join device via on via.key = d.via
left join assignment worn on worn.device_key = d.key and worn.valid @> %(now)s
left join device_status_seen s on s.device_key = d.key
where %(after)s::text is null or d.id > %(after)s
order by d.id limit %(limit)s

-- name: device_key
-- The key of a device that the user may see.
select key from device where id = %(device)s

-- name: assignments
-- Who wore one device from when to when, latest first, as far as the user may see the wearers.
select a.id::text, %(device)s as device_id, a.patient_id::text, nullif(lower(a.valid), '-infinity') as valid_from,
       nullif(upper(a.valid), 'infinity') as valid_until, a.created_at
from assignment a
where a.device_key = %(key)s and (%(after)s::bigint is null or a.id < %(after)s)
order by a.id desc limit %(limit)s
