-- name: edges
-- Every edge box, enabled or not.
select id from device where model = 'edge';

-- name: rosters
-- What each enabled edge box reads: enabled devices with an address that somebody who consents wears; with their zone.
select e.id as edge, d.id, d.model, d.address, coalesce(zone.timezone, 'UTC') as timezone
from device e
join device d on d.via = e.key and d.address is not null and d.disabled_at is null
join assignment a on a.device_key = d.key and a.valid @> from_ms(%(now)s)
left join lateral (select z.timezone from patient_timezone z
                   where z.patient_id = a.patient_id and z.valid_from <= from_ms(%(now)s)
                   order by z.valid_from desc limit 1) zone on true
where e.disabled_at is null
  and exists (select from consent c where c.patient_id = a.patient_id and c.valid @> from_ms(%(now)s))
order by e.id, d.id;
