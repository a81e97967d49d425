-- name: alerts
-- Alerts, latest raised first; all but the withdrawn ones unless states are named.
select a.* from alert a
where case when %(states)s::text[] is null then a.state <> 'withdrawn' else a.state = any(%(states)s) end
  and (%(severities)s::text[] is null or a.severity = any(%(severities)s))
  and (%(patient)s::bigint is null or a.patient_id = %(patient)s)
  and (%(after)s::bigint is null or a.id < %(after)s)
order by a.id desc limit %(limit)s

-- name: alert
-- One alert.
select * from alert where id = %(alert)s

-- name: alert_for_update
-- One alert, held against others who would change it.
select * from alert where id = %(alert)s for update

-- name: history
-- What happened to an alert, in order.
select h.id::text, h.at, h.action, h.actor::text, u.email as actor_email, h.note, h.detail
from alert_history h left join app_user u on u.id = h.actor
where h.alert_id = %(alert)s order by h.id

-- name: deliveries
-- Where an alert was published, in order.
select id::text, 'stream' as channel, action, created_at as at from outbox where alert_id = %(alert)s order by outbox.id

-- name: acknowledge
-- Somebody has taken notice.
update alert set state = 'acknowledged', acknowledged_by = %(actor)s, acknowledged_at = %(now)s, snoozed_until = null,
                 updated_at = %(now)s
where id = %(alert)s returning *

-- name: resolve
-- Somebody says that it is over; event time may run ahead of ours by the devices' clocks.
update alert set state = 'resolved', resolved_at = greatest(%(now)s, opened_at), snoozed_until = null, updated_at = %(now)s
where id = %(alert)s returning *

-- name: add_history
-- An entry in the name of the user.
insert into alert_history (alert_id, at, action, actor, note)
values (%(alert)s, %(now)s, %(action)s, %(actor)s, %(note)s)

-- name: add_note_once
-- A note to an alert that is already where the user wants it; sending the same again adds nothing.
insert into alert_history (alert_id, at, action, actor, note)
select %(alert)s, %(now)s, 'note', %(actor)s, %(note)s
where not exists (select from alert_history where alert_id = %(alert)s and actor = %(actor)s and note = %(note)s)

-- name: lock_outbox
-- Makes ids of the outbox visible in the order of commits.
select alert_outbox_lock()

-- name: publish
-- The alert as it is now, to everybody who listens.
insert into outbox (alert_id, patient_id, action, alert, created_at)
select a.id, a.patient_id, %(action)s, to_jsonb(a), %(now)s from alert a where a.id = %(alert)s

-- name: notify
-- Wakes the streams when the transaction commits.
select pg_notify('vigil_alerts', '')
