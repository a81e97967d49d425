-- name: edges
-- Every edge box, enabled or not.
select id from device where model = 'edge';

-- name: rosters
-- What each enabled edge box reads: enabled devices with an address that somebody who consents wears; with their zone.
select e.id as edge, w.id, w.model, w.address, coalesce(zone.timezone, 'UTC') as timezone
from device e
join watched_at(from_ms(%(now)s)) w on w.via = e.key and w.address is not null
left join lateral zone_at(w.patient_id, from_ms(%(now)s)) zone on true
where e.disabled_at is null
order by e.id, w.id;
