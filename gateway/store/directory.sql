-- name: version
-- The directory's version; rises with every change of devices, assignments, zones, consents and rules.
select version from directory_version;

-- name: devices
-- Every device with the edge box it is read by.
select key, id, model, coalesce(via, 0) as via from device;

-- name: assignments
-- Who wears what from when (inclusive) to when (exclusive), in ms since the epoch, open ends infinite; oldest first.
select device_key, patient_id,
       (extract(epoch from coalesce(lower(valid), '-infinity')) * 1000)::double precision as since_ms,
       (extract(epoch from coalesce(upper(valid), 'infinity')) * 1000)::double precision as until_ms
from assignment
order by device_key, lower(valid);

-- name: consents
-- When patients consent to the processing of their data, in ms since the epoch; oldest first.
select patient_id,
       (extract(epoch from coalesce(lower(valid), '-infinity')) * 1000)::double precision as since_ms,
       (extract(epoch from coalesce(upper(valid), 'infinity')) * 1000)::double precision as until_ms
from consent
order by patient_id, lower(valid);
