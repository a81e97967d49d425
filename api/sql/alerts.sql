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
                 answered_grade = greatest(answered_grade, %(grade)s::smallint), updated_at = %(now)s
where id = %(alert)s returning *

-- name: resolve
-- Somebody says that it is over; event time may run ahead of ours by the devices' clocks.
update alert set state = 'resolved', resolved_at = greatest(%(now)s, opened_at), snoozed_until = null,
                 answered_grade = greatest(answered_grade, %(grade)s::smallint), updated_at = %(now)s
where id = %(alert)s returning *

-- name: answer_milder
-- Somebody answered what they saw, and it is worse by now: the answer is kept, and the alert goes on asking.
update alert set answered_grade = greatest(answered_grade, %(grade)s::smallint), updated_at = %(now)s
where id = %(alert)s returning *

-- name: tell
-- What the user did goes into the alert's history and to everybody who listens; last in the transaction, for it stops every
-- other writer of alerts. A note goes into the history alone, and the same one once.
select tell_of_alert(%(alert)s::bigint, %(action)s, %(note)s, %(grade)s::integer, %(now)s)
