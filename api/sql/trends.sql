-- name: canonical_unit
-- The unit in which a code's readings are shown.
select u.ucum from vocabulary_code c join vocabulary_unit u on u.unit = c.canonical_unit where c.code = %(code)s::smallint

-- name: trend
-- Readings of one code in buckets, in the canonical unit; a reading without a number (LO, HI) counts all the same.
select date_bin(%(width)s, o.at, %(origin)s) as time, avg(o.value * k.factor + k.shift) as mean,
       min(o.value * k.factor + k.shift) as min, max(o.value * k.factor + k.shift) as max, count(*) as count
from observation_seen o
join vocabulary_conversion k on k.code = o.code and k.unit = o.unit
where o.device_key = any(%(devices)s::integer[]) and o.patient_id = %(patient)s and o.code = %(code)s::smallint
  and o.at >= %(start)s and o.at < %(end)s
group by 1 order by 1

-- name: rr_trend
-- The same of consecutive intervals: each counts at the beat that ends it. A series lasts 4096 intervals of 3 s at most.
select date_bin(%(width)s, beat.at, %(origin)s) as time, avg(beat.ms) as mean, min(beat.ms) as min, max(beat.ms) as max,
       count(*) as count
from rr_series_seen r
join vocabulary_conversion k on k.code = %(code)s::smallint and k.unit = r.unit
cross join lateral (
    select i.value * k.factor as ms,
           r.at + (sum(i.value * k.factor) over (order by n) - r.intervals[1] * k.factor) * interval '1 ms' as at
    from unnest(r.intervals) with ordinality as i (value, n)) beat
where r.device_key = any(%(devices)s::integer[]) and r.patient_id = %(patient)s
  and r.at >= %(start)s - interval '4 hours' and r.at < %(end)s and r.ends_at >= %(start)s
  and beat.at >= %(start)s and beat.at < %(end)s
group by 1 order by 1
