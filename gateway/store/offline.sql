-- name: behind_edge_boxes
-- Devices that edge boxes read and that are to be heard all the time, and by which code it may be, of one patient or
-- (null) of all; with the longest time after which one of them is offline.
select w.device_key, w.model,
       (coalesce(extract(epoch from w.expected_interval)::float8 * 1000, m.interval_ms))::bigint as interval_ms
from watched_at(from_ms(%(now)s)) w
left join unnest(%(models)s::text[], %(model_ms)s::bigint[]) as m (model, interval_ms) on m.model = w.model
where w.via is not null and (%(patient)s::int is null or w.patient_id = %(patient)s);

-- name: heard_behind
-- When something came last of each of many devices, as far as it was measured after a time that the planner knows; in ms.
select pair.device, to_ms(max(newest.received_at))
from unnest(%(device)s::int[], %(code)s::smallint[]) as pair (device, code)
cross join lateral (
    select o.received_at from observation o
    where o.device_key = pair.device and o.code = pair.code and o.at > from_ms(%(since)s)
    order by o.at desc limit 1
) newest
group by pair.device;

-- name: boxes_heard_behind
-- When the newest event of each of many pill boxes came; in ms.
select box.device, to_ms(newest.received_at)
from unnest(%(device)s::int[]) as box (device)
cross join lateral (
    select e.received_at from pillbox_event e where e.device_key = box.device order by e.at desc limit 1
) newest;

-- name: devices
-- Devices that patients wear now and of which there is news: they became offline, or are told to be and were heard, or it
-- matters more, or the rule is off now. With `patient`: all of that patient's. Contact is when something came: anything
-- of the device itself; of one behind an edge box, as `behind` says. Times in ms.
with own as (
    select * from unnest(%(patients)s::int[], %(intervals)s::float8[], %(will_ms)s::bigint[], %(back)s::bigint[])
        as o (patient_id, intervals, will_ms, back)
), behind as (
    select * from unnest(%(behind)s::int[], %(behind_heard)s::bigint[]) as b (device_key, heard_at)
), told as materialized (
    select id, patient_id, subject, severity, opened_at, (evidence #>> '{finding,contact_at}')::bigint as contact_at
    from alert where rule = 'device_offline' and running and state <> 'withdrawn'
      and (%(patient)s::int is null or patient_id = %(patient)s)
), worn as materialized (
    select d.patient_id, d.device_key as key, d.id, d.model, s.online, s.status_at,
           greatest(case when d.via is null then s.contact_at else from_ms(b.heard_at) end,
                    from_ms(t.contact_at)) as heard_at,
           coalesce(extract(epoch from d.expected_interval)::float8 * 1000, m.interval_ms) as interval_ms,
           case when o.patient_id is null then %(usual_intervals)s::float8 else o.intervals end as intervals,
           case when o.patient_id is null then %(usual_will_ms)s::bigint else o.will_ms end as will_ms,
           greatest(d.worn_since, d.created_at, from_ms(o.back)) as since,
           case when d.via is not null then %(edge_grace_ms)s when s.online then %(online_grace_ms)s
                else %(dose_grace_ms)s end as dose_grace_ms,
           d.model = 'cgm' and p.hypoglycaemia_risk as grave,
           t.id as alert_id, t.severity, t.opened_at
    from watched_at(from_ms(%(now)s)) d
    join patient p on p.id = d.patient_id
    left join unnest(%(models)s::text[], %(model_ms)s::bigint[]) as m (model, interval_ms) on m.model = d.model
    left join own o on o.patient_id = d.patient_id
    left join behind b on b.device_key = d.device_key
    left join told t on t.patient_id = d.patient_id and t.subject = d.id
    left join device_status s on s.device_key = d.device_key
    where d.model <> 'edge' and (%(patient)s::int is null or d.patient_id = %(patient)s)
), waiting as materialized (
    select w.key, min(d.window_end) as window_end
    from worn w
    join dose d on d.awaits = w.key and d.state = 'unknown' and d.window_end > coalesce(w.heard_at, '-infinity')
                   and d.window_end <= from_ms(%(now)s - w.dose_grace_ms)
    where w.model = 'pillbox'
    group by w.key
), judged as (
    select h.*, waits.window_end, coalesce(h.heard_at >= h.since, false) as heard,
           h.online is false and h.status_at is not null
               and coalesce(h.heard_at <= h.status_at + %(lag_ms)s * interval '1 ms', true) as gone
    from worn h
    left join waiting waits on waits.key = h.key
), edges as (
    select j.*,
           (j.heard or j.since <= from_ms(%(now)s - %(first_ms)s))
           and (j.gone and j.status_at <= from_ms(%(now)s - j.will_ms)
                or case when j.heard then j.heard_at else j.since end
                   <= from_ms(%(now)s) - j.interval_ms * j.intervals * interval '1 ms'
                or j.window_end is not null and j.will_ms is not null) as offline
    from judged j
)
select patient_id, id as device, model, to_ms(heard_at) as contact_at,
       case when gone then to_ms(status_at) end as left_at,
       interval_ms::bigint as interval_ms, to_ms(window_end) as waiting_since, grave
from edges
where coalesce(offline, false) is distinct from (alert_id is not null)
   or alert_id is not null
      and (heard_at > opened_at or severity <> case when grave or window_end is not null then 'medium' else 'low' end)
   or %(patient)s::int is not null
order by patient_id, id;

-- name: watched
-- When a patient had each of their devices, once it was known and while it was enabled, and consented, in ms; null: without end.
select had.id, span.since, span.until
from (select d.id, range_agg(a.valid * tstzrange(d.created_at, null) * tstzrange(null, d.disabled_at)) as times
      from assignment a join device d on d.key = a.device_key
      where a.patient_id = %(patient)s group by d.id) had
cross join (select range_agg(valid) as times from consent where patient_id = %(patient)s) agreed
cross join spans_of(had.times * agreed.times) span;

-- name: left_behind
-- Running alerts of devices that the patient does not wear any more, that are disabled, or whose data nobody may process.
select a.patient_id, a.subject as device
from alert a
where a.rule = 'device_offline' and a.running and a.state <> 'withdrawn'
  and not exists (select from watched_at(from_ms(%(now)s)) w where w.id = a.subject and w.patient_id = a.patient_id)
order by a.patient_id, a.subject;
