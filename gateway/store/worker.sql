-- name: silent
-- Running episodes of glucose rules whose data stopped, or came back, since they were marked last. What was settled is
-- current.
with watched as (
    select id, patient_id, opened_at, running, data from alert
    where rule = any(%(rules)s) and running and state <> 'withdrawn'
    union
    select id, patient_id, opened_at, running, data from alert
    where rule = any(%(rules)s) and data = 'unknown' and state <> 'withdrawn'
), seen as (
    select w.id, w.running and coalesce(newest.at < from_ms(%(since)s), true) as stopped
    from watched w
    cross join lateral (
        select max(last.at) as at
        from devices_of(w.patient_id) d
        cross join lateral (
            select o.at from observation o
            where w.running and o.device_key = d.device_key and o.code = 1 and o.patient_id = w.patient_id
              and o.at >= w.opened_at
            order by o.at desc limit 1
        ) last
    ) newest
)
select a.id, seen.stopped from seen join alert a on a.id = seen.id
where (a.data = 'unknown') <> seen.stopped
for update of a skip locked;

-- name: commands
-- Commands to send now, each taken by one worker. One for a device that an edge box reads goes to the edge box.
select c.id, coalesce(edge.id, d.id) as receiver, case when edge.id is not null then d.id end as device, c.type, c.payload,
       to_ms(c.expires_at) as expires_at
from command c join device d on d.key = c.device_key left join device edge on edge.key = d.via
where c.sent_at is null and c.expires_at > from_ms(%(now)s)
order by c.id
limit %(limit)s
for update of c skip locked;

-- name: sent
-- Notes that commands are with the broker.
update command set sent_at = from_ms(%(now)s) where id = any(%(ids)s);
