-- name: migrated_to
-- The newest migration that the database has.
select max(version) from schema_migration

-- name: operator_figures
-- Counts for the operator; nothing in them tells one person from another.
select 'vigil_alerts_standing' as name,
       jsonb_build_object('rule', rule, 'severity', severity, 'state', state) as labels, count(*) as value
from alert where state in ('open', 'acknowledged', 'snoozed') group by rule, severity, state
union all
select 'vigil_quarantine_refused', jsonb_build_object('reason', reason), sum(refused) from quarantine_count group by reason
union all
select 'vigil_quarantine_kept', jsonb_build_object('reason', reason), sum(kept) from quarantine_count group by reason
union all
select 'vigil_conflicts', '{}', count(*) from conflict
union all
select 'vigil_devices', jsonb_build_object('online', case when s.online then 'yes' when not s.online then 'no' else 'unknown' end),
       count(*)
from device d left join device_status s on s.device_key = d.key where d.disabled_at is null group by s.online
union all
select 'vigil_messages_lost', '{}', coalesce(sum(lost), 0) from receipt
union all
select 'vigil_outbox_last_id', '{}', coalesce(max(id), 0) from outbox
