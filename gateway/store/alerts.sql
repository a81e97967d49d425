-- name: standing
-- The alerts of a patient and rule that touch a span of event time, locked for the rest of the transaction.
select id, subject, severity, state, to_ms(opened_at) as opened_at, to_ms(resolved_at) as resolved_at, running,
       acknowledged_by, to_ms(acknowledged_at) as acknowledged_at, grade, answered_grade,
       evidence -> 'finding' as finding
from alert
where patient_id = %(patient)s and rule = %(rule)s and state <> 'withdrawn'
  and (%(until)s::bigint is null or opened_at <= from_ms(%(until)s))
  and (running or resolved_at >= from_ms(%(since)s))
order by opened_at, id
for update;

-- name: standing_rules
-- The alerts of a patient and several rules that reach beyond an instant, locked for the rest of the transaction.
select rule, id, subject, severity, state, to_ms(opened_at) as opened_at, to_ms(resolved_at) as resolved_at, running,
       acknowledged_by, to_ms(acknowledged_at) as acknowledged_at, grade, answered_grade,
       evidence -> 'finding' as finding
from alert
where patient_id = %(patient)s and rule = any(%(rules)s) and state <> 'withdrawn'
  and (running or resolved_at >= from_ms(%(since)s))
order by opened_at, id
for update;

-- name: standing_subjects
-- The alerts of a patient and rule about certain subjects (doses, devices), locked for the rest of the transaction.
select id, subject, severity, state, to_ms(opened_at) as opened_at, to_ms(resolved_at) as resolved_at, running,
       acknowledged_by, to_ms(acknowledged_at) as acknowledged_at, grade, answered_grade,
       evidence -> 'finding' as finding
from alert
where patient_id = %(patient)s and rule = %(rule)s and state <> 'withdrawn' and subject = any(%(subjects)s)
order by opened_at, id
for update;

-- name: running
-- Patients for whom one of several rules has an episode that goes on in the data, with rule, subject and beginning.
select patient_id, rule, subject, to_ms(opened_at) as opened_at from alert
where rule = any(%(rules)s) and running and state <> 'withdrawn';

-- name: covered
-- Which of many instants lie in an episode of one of several rules, or shortly before it, by their position.
select distinct i.n - 1
from unnest(%(patient)s::int[], %(at)s::bigint[]) with ordinality as i (patient, at, n)
join alert a on a.patient_id = i.patient and a.rule = any(%(rules)s) and a.state <> 'withdrawn'
    and a.opened_at <= from_ms(i.at + %(before)s) and (a.running or a.resolved_at >= from_ms(i.at));

-- name: beyond
-- Patients with an episode of one of several rules that goes beyond an instant of each patient's own.
select distinct asked.patient
from unnest(%(patient)s::int[], %(at)s::bigint[]) as asked (patient, at)
join alert a on a.patient_id = asked.patient and a.rule = any(%(rules)s) and a.state <> 'withdrawn'
    and (a.running or a.resolved_at > from_ms(asked.at));

-- name: insert
-- A new alert; returns its id.
insert into alert (patient_id, rule, subject, severity, grade, unanswered, technical, state, opened_at, resolved_at, running,
                   raised_at, updated_at, retrospective, summary, evidence, rule_version, settings)
values (%(patient)s, %(rule)s, %(subject)s, %(severity)s, %(grade)s, %(unanswered)s, %(technical)s, %(state)s, from_ms(%(opened_at)s),
        from_ms(%(resolved_at)s), %(running)s, from_ms(%(now)s), from_ms(%(now)s), %(retrospective)s, %(summary)s,
        %(evidence)s, %(rule_version)s, %(settings)s)
returning id;

-- name: change
-- The alert moves to another span, severity or state. Evidence gathered when it was raised is kept beside the new.
update alert set severity = %(severity)s, state = %(state)s, opened_at = from_ms(%(opened_at)s),
    resolved_at = from_ms(%(resolved_at)s), running = %(running)s, updated_at = from_ms(%(now)s),
    summary = %(summary)s, evidence = evidence || %(evidence)s,
    retrospective = raised_at > from_ms(%(opened_at)s) + %(retrospective_after)s * interval '1 ms',
    acknowledged_by = %(acknowledged_by)s, acknowledged_at = from_ms(%(acknowledged_at)s),
    grade = %(grade)s, answered_grade = %(answered_grade)s, unanswered = %(unanswered)s,
    snoozed_until = case when %(state)s = 'snoozed' then snoozed_until end
where id = %(id)s;

-- name: withdraw
-- The alert's episode is gone.
update alert set state = 'withdrawn', running = false, superseded_by = %(survivor)s, updated_at = from_ms(%(now)s)
where id = %(id)s;

-- name: set_data
-- The data behind running episodes of a rule stopped or came back; returns the alerts that changed.
update alert a set data = %(data)s, updated_at = from_ms(%(now)s)
where a.id = any(%(ids)s) and a.data <> %(data)s
returning a.id, a.patient_id;

-- name: add_evidence
-- What a doctor will want to see beside the finding.
update alert set evidence = evidence || %(evidence)s where id = %(id)s;

-- name: tell
-- Writes alerts' histories and events and wakes whoever listens; the last thing a transaction does.
select tell_of_alerts(%(alerts)s::bigint[], %(actions)s::text[], %(notes)s::text[], %(details)s::jsonb[], from_ms(%(now)s));
