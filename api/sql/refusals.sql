-- name: quarantine
-- What was refused, latest first; of long messages the first 4 KiB.
select id::text, received_at, topic, device_id, patient_id::text, reason, detail, series, samples, content_type,
       encode(substring(payload for 4096), 'base64') as payload, payload_bytes,
       encode(payload_sha256, 'hex') as payload_sha256, replayed_at
from quarantine
where (%(reason)s::text is null or reason = %(reason)s) and (%(device)s::text is null or device_id = %(device)s)
  and (%(after)s::bigint is null or id < %(after)s)
order by quarantine.id desc limit %(limit)s

-- name: conflicts
-- Readings that contradict a stored one, latest first.
select c.id::text, d.id as device_id, c.patient_id::text, v.name as code, c.at, c.value, u.ucum as unit,
       flag_names(c.flags) as flags, c.kept_value, k.ucum as kept_unit, c.received_at
from conflict c
join device d on d.key = c.device_key
join vocabulary_code v on v.code = c.code
join vocabulary_unit u on u.unit = c.unit
join vocabulary_unit k on k.unit = c.kept_unit
where (%(patient)s::bigint is null or c.patient_id = %(patient)s) and (%(after)s::bigint is null or c.id < %(after)s)
order by c.id desc limit %(limit)s
