-- How alerts are told, and what is asked again and again of wearers, zones and readings: each written once.
--
-- The functions in `from` that are plain `language sql` are inlined: the planner sees their tables, the row security of
-- whoever asks holds in them, and a time bound that it knows leaves most chunks out. Scalar ones with a query inside
-- would run once for each row instead; that is why the condition of the row policies, ((select may_administer()) or
-- patient_id in (select seen_patients())), is written out at each of them: so it is asked once for each statement.

-- Telling of alerts -----------------------------------------------------------------------------------------------

-- Lines of alerts' histories and events for whoever listens; nobody (null) is Vigil itself. The last thing a transaction
-- does: from the lock on its ids are in the order of commits, and every other writer of alerts waits.
create function tell_of_alerts(
    alerts bigint[], actions text[], notes text[], details jsonb[], told_at timestamptz, told_by integer default null
) returns void language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
    insert into alert_history (alert_id, at, action, actor, note, detail)
    select told.alert_id, told_at, told.action, told_by, told.note, told.detail
    from unnest(alerts, actions, notes, details) with ordinality as told (alert_id, action, note, detail, n)
    order by told.n;
    perform alert_outbox_lock();
    insert into outbox (alert_id, patient_id, action, alert, created_at)
    select a.id, a.patient_id, told.action, to_jsonb(a), told_at
    from unnest(alerts, actions) with ordinality as told (alert_id, action, n)
    join alert a on a.id = told.alert_id
    order by told.n;
    perform pg_notify('vigil_alerts', '');
end $$;

-- What the user who asks says of an alert that they may see, in their own name. A note changes nothing: it is no event,
-- and the same one is kept once.
create function tell_of_alert(told_alert bigint, told_action text, told_note text, told_at timestamptz)
returns void language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
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
        perform tell_of_alerts(array[told_alert], array[told_action], array[told_note], array[null::jsonb], told_at,
                               current_user_id());
    end if;
end $$;

revoke execute on function tell_of_alerts from public;
revoke execute on function tell_of_alert from public;
grant execute on function tell_of_alert to vigil_api;
-- There is no other way for a user to write either.
drop policy written on alert_history;
drop policy written on outbox;
revoke insert on alert_history, outbox from vigil_api;

-- Who wears what, and where they live -----------------------------------------------------------------------------

-- The devices of which somebody expects data at an instant: enabled, and worn by a patient who consents.
create function watched_at(instant timestamptz)
returns table (patient_id integer, device_key integer, id text, model text, via integer, address text,
               expected_interval interval, created_at timestamptz, worn_since timestamptz)
language sql stable parallel safe
begin atomic
    select a.patient_id, d.key, d.id, d.model, d.via, d.address, d.expected_interval, d.created_at, lower(a.valid)
    from assignment a join device d on d.key = a.device_key
    where a.valid @> instant and (d.disabled_at is null or d.disabled_at > instant)
      and exists (select from consent c where c.patient_id = a.patient_id and c.valid @> instant);
end;

-- Every device that a patient ever had.
create function devices_of(wearer integer) returns table (device_key integer) language sql stable parallel safe
begin atomic
    select distinct a.device_key from assignment a where a.patient_id = wearer;
end;

-- The parts of some times, oldest first, in ms; null: without end.
create function spans_of(times tstzmultirange) returns table (since bigint, until bigint)
language sql immutable parallel safe
begin atomic
    select case when isfinite(lower(span)) then to_ms(lower(span)) end,
           case when isfinite(upper(span)) then to_ms(upper(span)) end
    from unnest(times) as span order by span;
end;

-- The zone a patient lives by at an instant; no row where none is recorded.
create function zone_at(of_patient integer, instant timestamptz) returns table (timezone text)
language sql stable parallel safe
begin atomic
    select z.timezone from patient_timezone z
    where z.patient_id = of_patient and z.valid_from <= instant
    order by z.valid_from desc limit 1;
end;

-- Readings --------------------------------------------------------------------------------------------------------

-- Whether a reading says anything: it has none of the flags `never`, and a value or one of `sentinels` (LO, HI).
create function counts(value double precision, flags smallint, never smallint, sentinels smallint) returns boolean
language sql immutable parallel safe
return flags & never = 0 and (value is not null or flags & sentinels <> 0);

-- A patient's newest reading of a code that counts, over all their devices, measured between two instants, ends excluded.
create function newest_reading(
    of_patient integer, of_code smallint, after timestamptz, before timestamptz, never smallint, sentinels smallint
) returns table (at timestamptz, received_at timestamptz) language sql stable parallel safe
begin atomic
    select newest.at, newest.received_at
    from devices_of(of_patient) d
    cross join lateral (
        select o.at, o.received_at from observation o
        where o.device_key = d.device_key and o.code = of_code and o.patient_id = of_patient
          and o.at > after and o.at < before and counts(o.value, o.flags, never, sentinels)
        order by o.at desc limit 1
    ) newest
    order by newest.at desc limit 1;
end;
