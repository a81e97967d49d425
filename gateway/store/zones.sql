-- name: all_timezones
-- The zones all patients live by, each from when on, in ms; null: always.
select patient_id, case when isfinite(valid_from) then to_ms(valid_from) end, timezone
from patient_timezone order by patient_id, valid_from;

-- name: timezones
-- The same of some patients.
select patient_id, case when isfinite(valid_from) then to_ms(valid_from) end, timezone
from patient_timezone where patient_id = any(%(patients)s) order by patient_id, valid_from;
