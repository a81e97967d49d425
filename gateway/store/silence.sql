-- name: fell_silent
-- Patients whose glucose is not there and of whom that is not told: for days, or (`night`) for minutes, whatever the hour
-- is where they live. `own`: whose settings are not the usual ones, null where the rule is off, and when they came back.
-- Readings are looked for in the newest chunks first, by bounds that the planner knows; few patients need the second look.
with own as (
    select * from unnest(%(patients)s::int[], %(day_ms)s::bigint[], %(night_ms)s::bigint[], %(back)s::bigint[])
        as o (patient_id, day_ms, night_ms, back)
), running as materialized (
    select patient_id, subject from alert where rule = 'data_silence' and running and state <> 'withdrawn'
), expecting as materialized (
    select p.id, from_ms(o.back) as back,
           case when o.patient_id is null then %(usual_day_ms)s::bigint else o.day_ms end as day_ms,
           case when p.hypoglycaemia_risk and e.expected_interval <= %(fast_ms)s * interval '1 ms'
                     and not exists (select from running r where r.patient_id = p.id and r.subject = 'glucose:night')
                then case when o.patient_id is null then %(usual_night_ms)s::bigint else o.night_ms end end as night_ms
    from expected_code e join patient p on p.id = e.patient_id left join own o on o.patient_id = p.id
    where e.code = %(glucose)s
      and not exists (select from running r where r.patient_id = p.id and r.subject = 'glucose')
      and exists (select from watched_at(from_ms(%(now)s)) w where w.patient_id = p.id and w.model = any(%(models)s))
), quiet as materialized (
    select x.* from expecting x
    where x.day_ms is not null
      and not exists (
          select from assignment s
          cross join lateral (
              select from observation o
              where o.device_key = s.device_key and o.code = %(glucose)s and o.patient_id = x.id
                and o.at > from_ms(%(recent)s)
                and counts(o.value, o.flags, %(never)s, %(sentinels)s)
              limit 1
          ) heard
          where s.patient_id = x.id)
), heard as materialized (
    select x.*, newest.at
    from quiet x
    left join lateral newest_reading(x.id, %(glucose)s, from_ms(%(oldest)s), 'infinity', %(never)s, %(sentinels)s) newest
        on true
), judged as (
    select h.id, coalesce(greatest(h.at, h.back) < from_ms(%(now)s - h.night_ms), false) as night,
           coalesce(greatest(h.at, h.back) <= from_ms(%(now)s - h.day_ms), h.at is null) as days, h.day_ms
    from heard h
)
select j.id as patient_id,
       j.days and exists (select from assignment a join device d on d.key = a.device_key
                          where a.patient_id = j.id and d.model = any(%(models)s)
                            and coalesce(lower(a.valid), '-infinity') <= from_ms(%(now)s - j.day_ms)) as days,
       j.night
from judged j
where j.days or j.night
order by j.id;

-- name: silence_may_be_over
-- Running alerts of silence about which there may be news: readings came, nobody expects any, or not all the time, the
-- rule or the night is over.
with own as (
    select * from unnest(%(patients)s::int[], %(day_ms)s::bigint[], %(night_ms)s::bigint[], %(back)s::bigint[])
        as o (patient_id, day_ms, night_ms, back)
), told as materialized (
    select o.back, a.id, a.patient_id, a.subject, (a.evidence #>> '{finding,last_at}')::bigint as last_at,
           (a.evidence #>> '{finding,since_at}')::bigint as since_at,
           (a.evidence #>> '{finding,night_ends_at}')::bigint as night_ends_at,
           case when a.subject = 'glucose'
                then case when o.patient_id is null then %(usual_day_ms)s::bigint else o.day_ms end
                else case when o.patient_id is null then %(usual_night_ms)s::bigint else o.night_ms end end as after_ms
    from alert a left join own o on o.patient_id = a.patient_id
    where a.rule = 'data_silence' and a.running and a.state <> 'withdrawn'
), heard as materialized (
    select t.*, newest.at, newest.received_at
    from told t
    left join lateral newest_reading(t.patient_id, %(glucose)s, from_ms(%(late)s), 'infinity', %(never)s, %(sentinels)s) newest
        on true
)
select t.id, t.patient_id, t.subject, t.last_at, null::bigint as resolved_at
from heard t
join patient p on p.id = t.patient_id
left join expected_code e on e.patient_id = t.patient_id and e.code = %(glucose)s
where t.after_ms is null or t.since_at + t.after_ms > %(now)s or t.night_ends_at <= %(now)s or t.back > t.since_at
   or e.patient_id is null
   or t.subject = 'glucose:night'
      and not (p.hypoglycaemia_risk and e.expected_interval <= %(fast_ms)s * interval '1 ms')
   or not exists (select from consent c
                  where c.patient_id = t.patient_id and c.valid @> tstzrange(from_ms(t.since_at), from_ms(%(now)s), '[]'))
   or not exists (select from assignment a join device d on d.key = a.device_key
                  where a.patient_id = t.patient_id and d.model = any(%(models)s)
                    and a.valid @> tstzrange(from_ms(t.since_at), from_ms(%(now)s), '[]')
                    and (d.disabled_at is null or d.disabled_at > from_ms(%(now)s)))
   or (t.last_at is null or t.at > from_ms(t.last_at))
      and (t.at > from_ms(%(now)s - t.after_ms) or t.received_at <= from_ms(%(settled)s))
order by t.patient_id, t.id;

-- name: silence_was_filled
-- Alerts of silence that was over lately, or is of this turn's share of all, into which late readings came.
select a.id, a.patient_id, a.subject, (a.evidence #>> '{finding,last_at}')::bigint as last_at,
       to_ms(a.resolved_at) as resolved_at
from (
    select * from alert where rule = 'data_silence' and not running and state <> 'withdrawn'
        and updated_at >= from_ms(%(lately)s) and resolved_at > from_ms(%(late)s)
    union
    select * from alert where rule = 'data_silence' and not running and state <> 'withdrawn'
        and id %% 720 = %(share)s and resolved_at > from_ms(%(late)s)
) a
cross join lateral newest_reading(a.patient_id, %(glucose)s, from_ms(%(late)s), a.resolved_at, %(never)s, %(sentinels)s) late
where late.at > from_ms(coalesce((a.evidence #>> '{finding,last_at}')::bigint, 0)) and late.received_at <= from_ms(%(settled)s)
order by a.patient_id, a.id;

-- name: expectation
-- What is expected of a patient: risk of lows, the interval of glucose (null: none is expected), since when known, and
-- when it was last said that they wear a device of some models (null: never); in ms.
select p.hypoglycaemia_risk as at_risk, (extract(epoch from e.expected_interval) * 1000)::bigint as interval_ms,
       to_ms(p.created_at) as created_at,
       (select to_ms(max(a.created_at)) from assignment a join device d on d.key = a.device_key
        where a.patient_id = p.id and d.model = any(%(models)s)
          and not isempty(a.valid * tstzrange(null, d.disabled_at))) as recorded_at
from patient p left join expected_code e on e.patient_id = p.id and e.code = %(glucose)s
where p.id = %(patient)s;

-- name: watched
-- When a patient had a device of some models that was enabled, and consented, in ms; null: without end.
select span.since, span.until
from (select range_agg(a.valid * tstzrange(null, d.disabled_at)) as times
      from assignment a join device d on d.key = a.device_key
      where a.patient_id = %(patient)s and d.model = any(%(models)s)) had
cross join (select range_agg(valid) as times from consent where patient_id = %(patient)s) agreed
cross join spans_of(had.times * agreed.times) span;

-- name: newest_reading
-- A patient's newest glucose that counts, of what was measured after a time, and when it came, in ms.
select to_ms(at), to_ms(received_at)
from newest_reading(%(patient)s, %(glucose)s, from_ms(%(since)s), 'infinity', %(never)s, %(sentinels)s);

-- name: first_reading
-- A patient's first glucose that counts from a time on, in ms.
select to_ms(min(first.at))
from devices_of(%(patient)s) d
cross join lateral (
    select o.at from observation o
    where o.device_key = d.device_key and o.code = %(glucose)s and o.patient_id = %(patient)s
      and o.at >= from_ms(%(since)s)
      and counts(o.value, o.flags, %(never)s, %(sentinels)s)
    order by o.at limit 1
) first;

-- name: gaps
-- The longer gaps of a patient's glucose between two times (null: without beginning, without end), in ms; the first one
-- has no reading before it where there is no beginning, the last one none after it.
with counted as (
    select o.at
    from devices_of(%(patient)s) d
    join observation o on o.device_key = d.device_key and o.code = %(glucose)s and o.patient_id = %(patient)s
    where o.at > from_ms(coalesce(%(since)s::bigint, 0)) and (%(until)s::bigint is null or o.at <= from_ms(%(until)s))
      and counts(o.value, o.flags, %(never)s, %(sentinels)s)
    union all
    select from_ms(%(since)s)
), pairs as (
    select at, lead(at) over (order by at nulls first) as next from counted
)
select to_ms(at), to_ms(next) from pairs
where at is null or next - at > %(longer_ms)s * interval '1 ms' or next is null and %(until)s::bigint is null
order by at nulls first;

-- name: plan_for_values
-- Until the transaction ends, plans are made for the values at hand: a time bound then leaves most chunks out of them.
set local plan_cache_mode to force_custom_plan;
