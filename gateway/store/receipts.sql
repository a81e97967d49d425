-- name: load
-- Every device's receipt; ranges beyond a gap as text.
select r.device_key, r.first_seq, r.seq, r.above::text, to_ms(r.gap_since), r.lost, r.published_seq, to_ms(s.contact_stamp)
from receipt r left join device_status s on s.device_key = r.device_key;

-- name: leftover
-- Journal entries that a crash kept from being folded into receipts, oldest first.
select id, to_ms(received_at), device_keys, seqs, oldest, stamps, news from receipt_journal order by id;

-- name: write
-- Writes receipts that moved.
insert into receipt (device_key, first_seq, seq, above, gap_since, lost)
select device_key, first_seq, seq, above::int8multirange, from_ms(gap_since), lost
from unnest(%(device)s::int[], %(first_seq)s::bigint[], %(seq)s::bigint[], %(above)s::text[], %(gap_since)s::bigint[],
            %(lost)s::bigint[]) as r (device_key, first_seq, seq, above, gap_since, lost)
order by device_key
on conflict (device_key) do update set
    first_seq = excluded.first_seq, seq = excluded.seq, above = excluded.above, gap_since = excluded.gap_since,
    lost = excluded.lost;

-- name: contact
-- When devices were last heard, their newest stamp without a gap before it, and what their clocks seem to be off by.
insert into device_status (device_key, contact_at, contact_stamp, clock_offset_ms)
select device, from_ms(contact_at), from_ms(stamp), clock_offset
from unnest(%(device)s::int[], %(contact_at)s::bigint[], %(stamp)s::bigint[], %(clock_offset)s::bigint[])
    as c (device, contact_at, stamp, clock_offset)
order by device
on conflict (device_key) do update set
    contact_at = greatest(device_status.contact_at, excluded.contact_at),
    contact_stamp = greatest(device_status.contact_stamp, excluded.contact_stamp),
    clock_offset_ms = coalesce(excluded.clock_offset_ms, device_status.clock_offset_ms);

-- name: set_clocks
-- Asks devices whose clock is off to set it, each at most once an hour; returns how many.
with off as (
    update device_status set clock_command_at = from_ms(%(now)s)
    where device_key = any(%(devices)s) and abs(clock_offset_ms) > %(tolerated)s
      and (clock_command_at is null or clock_command_at < from_ms(%(now)s) - interval '1 hour')
    returning device_key
)
insert into command (device_key, type, payload, created_at, expires_at)
select device_key, 'set_clock', '{}', from_ms(%(now)s), from_ms(%(now)s) + interval '1 hour' from off;

-- name: forget_journal
-- Removes the journal entries whose messages the receipts hold.
delete from receipt_journal where id <= %(id)s;

-- name: published
-- Notes what devices were told.
update receipt r set published_seq = p.seq
from unnest(%(device)s::int[], %(seq)s::bigint[]) as p (device, seq) where r.device_key = p.device;

-- name: names
-- The ids of devices.
select key, id from device where key = any(%(devices)s);
