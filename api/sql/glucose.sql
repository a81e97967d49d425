-- name: readings
-- Glucose in an interval over all devices, as sent, in any order: 20 bytes a reading: µs since 2000-01-01, value (NaN: none), unit, flags.
select count(*) as readings,
       coalesce(string_agg(timestamptz_send(o.at) || float8send(coalesce(o.value, 'NaN')) || int2send(o.unit)
                           || int2send(o.flags), ''::bytea), ''::bytea) as packed
from (
    select at, value, unit, flags from observation_seen
    where device_key = any(%(devices)s::integer[]) and patient_id = %(patient)s and code = 1
      and at >= from_ms(%(start)s) and at < from_ms(%(end)s)
    limit %(limit)s) o
