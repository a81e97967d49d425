-- How grave an alert is, and the grade at which somebody answered it: what becomes worse than it was answered is open again.

alter table alert
    add column grade smallint,             -- 1 low, 2 medium, 3 high, 4 urgent, 5 urgent below 2.5 mmol/L or LO
    add column answered_grade smallint,    -- the gravest that a person saw when they answered; null: nobody did
    add column unanswered boolean not null default false;  -- it ended without an answer at its grade

update alert set
    grade = case severity when 'low' then 1 when 'medium' then 2 when 'high' then 3
        else case when rule in ('nocturnal_hypoglycaemia', 'urgent_low')
                       and evidence -> 'finding' ? 'lowest_value'
                       and coalesce((evidence -> 'finding' ->> 'lowest_value')::float8, 0)
                           < case evidence -> 'finding' ->> 'lowest_unit' when 'mg/dL' then 45 else 2.5 end
                  then 5 else 4 end
        end;
update alert set answered_grade = grade where acknowledged_at is not null or (running and state = 'resolved');
update alert set unanswered = true where state = 'resolved' and answered_grade is null;

alter table alert
    alter column grade set not null,
    add check (grade between 1 and 5),
    add check (answered_grade between 1 and 5);

grant update (answered_grade) on alert to vigil_api;

-- What the user who asks says of an alert that they may see, in their own name, with the grade that they saw. A note
-- changes nothing: it is no event, and the same one is kept once.
drop function tell_of_alert(bigint, text, text, timestamptz);
create function tell_of_alert(
    told_alert bigint, told_action text, told_note text, told_grade integer, told_at timestamptz
) returns void language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    if told_action not in ('acknowledged', 'resolved', 'note') then
        raise insufficient_privilege using message = 'what else happens to an alert, Vigil alone says';
    end if;
    if current_user_id() is null or not exists (
        select from alert a
        where a.id = told_alert and (may_administer() or a.patient_id in (select seen_patients())))
    then
        raise insufficient_privilege using message = 'there is no such alert, or none that this user may see';
    end if;
    if told_action = 'note' then
        insert into alert_history (alert_id, at, action, actor, note)
        select told_alert, told_at, told_action, current_user_id(), told_note
        where not exists (select from alert_history h
                          where h.alert_id = told_alert and h.actor = current_user_id() and h.note = told_note);
    else
        perform tell_of_alerts(array[told_alert], array[told_action], array[told_note],
                               array[jsonb_build_object('grade', told_grade)], told_at, current_user_id());
    end if;
end $$;

revoke execute on function tell_of_alert from public;
grant execute on function tell_of_alert to vigil_api;
