-- name: silent
-- Running glucose episodes whose data stopped, or came back, since they were marked last.
select a.id, newest.at < from_ms(%(since)s) or newest.at is null as stopped
from alert a
left join lateral (
    select max(last.at) as at
    from (select distinct device_key from assignment s where s.patient_id = a.patient_id) d
    cross join lateral (
        select o.at from observation o
        where o.device_key = d.device_key and o.code = 1 and o.patient_id = a.patient_id and o.at >= a.opened_at
        order by o.at desc limit 1
    ) last
) newest on true
where a.rule = 'nocturnal_hypoglycaemia' and a.running and a.state <> 'withdrawn'
  and (a.data = 'unknown') is distinct from (newest.at < from_ms(%(since)s) or newest.at is null)
for update of a skip locked;

-- name: commands
-- Commands to send now, each taken by one worker.
select c.id, d.id as device_id, c.type, c.payload from command c join device d on d.key = c.device_key
where c.sent_at is null and c.expires_at > from_ms(%(now)s)
order by c.id
limit %(limit)s
for update of c skip locked;

-- name: sent
-- Notes that commands are with the broker.
update command set sent_at = from_ms(%(now)s) where id = any(%(ids)s);
