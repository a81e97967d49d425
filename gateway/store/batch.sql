-- name: journal
-- Notes which numbered messages the batch holds; returns the entry's id.
insert into receipt_journal (received_at, device_keys, seqs, oldest, stamps, news)
values (from_ms(%(now)s), %(device)s::int[], %(seq)s::bigint[], %(oldest)s::bigint[], %(stamp)s::bigint[], %(news)s::bool[])
returning id;

-- name: directory_version
-- The directory's version as this transaction sees it.
select version from directory_version;

-- name: copy_observations
-- The fast lane: rows that are new by construction.
copy observation (at, received_at, device_key, patient_id, code, unit, flags, value) from stdin (format binary);

-- name: copy_rr
-- The fast lane of RR runs.
copy rr_series (at, ends_at, received_at, device_key, patient_id, unit, flags, intervals) from stdin (format binary);

-- name: plain
-- A small batch of rows that are new by construction and change no patient's state, in one statement and one round trip.
-- Stores nothing if the directory changed meanwhile; returns the directory's version and the journal entry's id.
with directory as (
    select version from directory_version
), entry as (
    insert into receipt_journal (received_at, device_keys, seqs, oldest, stamps, news)
    select from_ms(%(now)s), %(numbered_device)s::int[], %(seq)s::bigint[], %(oldest)s::bigint[], %(stamp)s::bigint[],
           %(news)s::bool[]
    from directory where version = %(version)s and cardinality(%(seq)s::bigint[]) > 0
    returning id
), stored as (
    insert into observation (at, received_at, device_key, patient_id, code, unit, flags, value)
    select from_ms(at), from_ms(%(now)s), device, patient, code, unit, flags, nullif(value, 'NaN')
    from directory, unnest(%(at)s::bigint[], %(device)s::int[], %(patient)s::int[], %(code)s::smallint[],
                           %(unit)s::smallint[], %(flags)s::smallint[], %(value)s::float8[])
        as row (at, device, patient, code, unit, flags, value)
    where version = %(version)s
)
select version, (select id from entry) from directory;

-- name: newest
-- The newest stored time of each (device, code); -1 where nothing is stored.
select coalesce((select to_ms(o.at) from observation o
                 where o.device_key = pair.device and o.code = pair.code order by o.at desc limit 1), -1)
from unnest(%(device)s::int[], %(code)s::smallint[]) with ordinality as pair (device, code, n)
order by pair.n;

-- name: newest_rr
-- The last stored beat of each device; -1 where nothing is stored.
select coalesce((select to_ms(r.ends_at) from rr_series r
                 where r.device_key = d.device order by r.at desc limit 1), -1)
from unnest(%(device)s::int[]) with ordinality as d (device, n)
order by d.n;

-- name: insert_late
-- The slow lane: stores what is really new and tells which rows those were, by their position.
with sent as (
    select n, from_ms(at) as at, device, patient, code, unit, flags, value
    from unnest(%(at)s::bigint[], %(device)s::int[], %(patient)s::int[], %(code)s::smallint[], %(unit)s::smallint[],
                %(flags)s::smallint[], %(value)s::float8[])
        with ordinality as row (at, device, patient, code, unit, flags, value, n)
), stored as (
    insert into observation (at, received_at, device_key, patient_id, code, unit, flags, value)
    select at, from_ms(%(now)s), device, patient, code, unit, flags, nullif(value, 'NaN') from sent
    on conflict (device_key, code, at) do nothing
    returning device_key, code, at
)
select sent.n - 1 from sent join stored on (stored.device_key, stored.code, stored.at) = (sent.device, sent.code, sent.at);

-- name: stored
-- What is stored under each key: position, value, unit; keys between two times.
select row.n - 1, o.value, o.unit
from unnest(%(at)s::bigint[], %(device)s::int[], %(code)s::smallint[]) with ordinality as row (at, device, code, n)
join observation o on o.device_key = row.device and o.code = row.code and o.at = from_ms(row.at)
where o.at between from_ms(%(oldest)s) and from_ms(%(newest)s);

-- name: conflicts
-- Keeps readings that contradict a stored one; returns how many were not known yet.
insert into conflict (device_key, patient_id, code, at, unit, flags, value, kept_value, kept_unit, received_at)
select device, patient, code, from_ms(at), unit, flags, nullif(value, 'NaN'), nullif(kept_value, 'NaN'), kept_unit,
       from_ms(%(now)s)
from unnest(%(at)s::bigint[], %(device)s::int[], %(patient)s::int[], %(code)s::smallint[], %(unit)s::smallint[],
            %(flags)s::smallint[], %(value)s::float8[], %(kept_value)s::float8[], %(kept_unit)s::smallint[])
    as row (at, device, patient, code, unit, flags, value, kept_value, kept_unit)
on conflict do nothing;

-- name: rr_overlapping
-- Stored beats of a device that lie in a span: first beat, last beat of each run, in ms.
select (extract(epoch from at) * 1000)::float8, (extract(epoch from ends_at) * 1000)::float8
from rr_series
where device_key = %(device)s and at <= from_ms(%(until)s) and ends_at >= from_ms(%(since)s)
  and at >= from_ms(%(since)s) - interval '1 day'
order by at;

-- name: hrv_dirty
-- Marks 5-min windows whose beats changed; the lock on an existing mark makes the worker wait for this transaction.
insert into hrv_dirty (patient_id, window_start)
select patient, from_ms(window_start) from unnest(%(patient)s::int[], %(window_start)s::bigint[]) as w (patient, window_start)
order by 1, 2
on conflict (patient_id, window_start) do update set version = hrv_dirty.version + 1;

-- name: events
-- Stores what happened on devices; returns the positions of the events that were not known yet.
with sent as (
    select * from unnest(%(device)s::int[], %(patient)s::int[], %(type)s::text[], %(at)s::bigint[],
                         %(compartment)s::smallint[], %(count)s::smallint[], %(detail)s::jsonb[])
        with ordinality as row (device, patient, type, at, compartment, count, detail, n)
), stored as (
    insert into pillbox_event (device_key, patient_id, type, at, compartment, count, detail, received_at)
    select device, patient, type, from_ms(at), compartment, count, detail, from_ms(%(now)s) from sent
    on conflict do nothing
    returning device_key, type, at, compartment
)
select min(sent.n) - 1 from sent join stored
    on stored.device_key = sent.device and stored.type = sent.type and stored.at = from_ms(sent.at)
   and stored.compartment is not distinct from sent.compartment
group by stored.device_key, stored.type, stored.at, stored.compartment;

-- name: command_done
-- What devices answered to commands; the first answer counts.
update command c set done_at = from_ms(done.at), ok = done.ok
from (select distinct on (device, id) *
      from unnest(%(device)s::int[], %(id)s::bigint[], %(at)s::bigint[], %(ok)s::bool[]) with ordinality
          as answer (device, id, at, ok, n)
      order by device, id, n) as done
where c.id = done.id and c.device_key = done.device and c.done_at is null;

-- name: status
-- What devices say of themselves. What the broker had kept is no contact, and a last will is none either; a last will
-- that was spoken while nobody listened counts from when it is heard of.
insert into device_status (device_key, online, battery, firmware, status_at, contact_at, contact_stamp)
select device, s.online, s.battery, s.firmware,
       coalesce(from_ms(heard_at), case when not s.online and known.online is distinct from false then from_ms(%(now)s) end),
       from_ms(s.contact_at), from_ms(stamp)
from unnest(%(device)s::int[], %(online)s::bool[], %(battery)s::float8[], %(firmware)s::text[],
            %(heard_at)s::bigint[], %(contact_at)s::bigint[], %(stamp)s::bigint[])
    as s (device, online, battery, firmware, heard_at, contact_at, stamp)
left join device_status known on known.device_key = s.device
order by device
on conflict (device_key) do update set
    online = excluded.online,
    battery = coalesce(excluded.battery, device_status.battery),
    firmware = coalesce(excluded.firmware, device_status.firmware),
    status_at = coalesce(excluded.status_at, device_status.status_at),
    contact_at = greatest(device_status.contact_at, excluded.contact_at),
    contact_stamp = greatest(device_status.contact_stamp, excluded.contact_stamp);

-- name: quarantined_today
-- How many entries are kept of each device on a day (UTC).
select device_id, sum(kept)::bigint from quarantine_count
where day = %(day)s and device_id = any(%(devices)s) group by device_id;

-- name: quarantine
-- Keeps what was refused; the same refusal of the same bytes is kept once. Returns whose, and why, for each kept entry.
insert into quarantine (received_at, topic, device_id, patient_id, reason, detail, series, samples, content_type, payload,
                        payload_bytes, payload_sha256)
select from_ms(%(now)s), topic, device_id, patient_id, reason, detail, series::smallint[], samples::smallint[],
       content_type, payload, payload_bytes, payload_sha256
from unnest(%(topic)s::text[], %(device_id)s::text[], %(patient_id)s::int[], %(reason)s::text[], %(detail)s::text[],
            %(series)s::text[], %(samples)s::text[], %(content_type)s::text[], %(payload)s::bytea[],
            %(payload_bytes)s::int[], %(payload_sha256)s::bytea[])
    as entry (topic, device_id, patient_id, reason, detail, series, samples, content_type, payload, payload_bytes,
              payload_sha256)
on conflict do nothing
returning coalesce(device_id, ''), reason;

-- name: count_quarantined
-- Counts what was refused and what of it was kept.
insert into quarantine_count (device_id, day, reason, refused, kept)
select device_id, %(day)s, reason, refused, kept
from unnest(%(device_id)s::text[], %(reason)s::text[], %(refused)s::bigint[], %(kept)s::bigint[])
    as c (device_id, reason, refused, kept)
order by device_id, reason
on conflict (device_id, day, reason) do update
set refused = quarantine_count.refused + excluded.refused, kept = quarantine_count.kept + excluded.kept;
