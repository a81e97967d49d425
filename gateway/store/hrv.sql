-- name: patients_dirty
-- Patients with 5-min windows to compute: beats changed, and the window is over.
select patient_id from hrv_dirty
where window_start <= from_ms(%(until)s) and patient_id <> all(%(without)s::int[])
group by patient_id order by min(window_start) limit %(limit)s;

-- name: take_dirty
-- Takes a patient's dirty windows that are over, unless another worker or an open batch holds them; oldest first.
with taken as (
    select patient_id, window_start from hrv_dirty
    where patient_id = %(patient)s and window_start <= from_ms(%(until)s)
    order by window_start limit %(limit)s
    for update skip locked
)
delete from hrv_dirty d using taken t
where d.patient_id = t.patient_id and d.window_start = t.window_start
returning to_ms(d.window_start);

-- name: runs
-- RR runs of a patient that touch a span: device, first beat in ms, intervals, whether they are in s, flags.
select device_key, (extract(epoch from at) * 1000)::float8, intervals, unit, flags from rr_series
where device_key = any(select d.device_key from devices_of(%(patient)s) d)
  and patient_id = %(patient)s and at <= from_ms(%(until)s) and ends_at >= from_ms(%(since)s)
  and at >= from_ms(%(since)s) - interval '1 day'
order by device_key, at;

-- name: devices
-- What the devices of a patient, of any time, measure heart beats with: what was said of each (null: nothing), and its model.
select key, model, modality from device
where key = any(select d.device_key from devices_of(%(patient)s) d);

-- name: write_windows
-- Writes windows as computed last.
insert into hrv_window (patient_id, window_start, device_key, beats, coverage, corrected, valid, rmssd, sdnn,
                        mean_heart_rate, modality)
select %(patient)s, from_ms(start), device, beats, coverage, corrected, valid, rmssd, sdnn, mean_heart_rate, modality
from unnest(%(start)s::bigint[], %(device)s::int[], %(beats)s::int[], %(coverage)s::float8[], %(corrected)s::float8[],
            %(valid)s::bool[], %(rmssd)s::float8[], %(sdnn)s::float8[], %(mean_heart_rate)s::float8[], %(modality)s::text[])
    as w (start, device, beats, coverage, corrected, valid, rmssd, sdnn, mean_heart_rate, modality)
on conflict (patient_id, window_start) do update set
    device_key = excluded.device_key, beats = excluded.beats, coverage = excluded.coverage,
    corrected = excluded.corrected, valid = excluded.valid, rmssd = excluded.rmssd, sdnn = excluded.sdnn,
    mean_heart_rate = excluded.mean_heart_rate, modality = excluded.modality;

-- name: windows
-- A patient's windows within a night.
select to_ms(window_start) as start_ms, device_key as device, beats, coverage, corrected, valid, rmssd, sdnn,
       mean_heart_rate, modality
from hrv_window
where patient_id = %(patient)s and window_start >= from_ms(%(since)s) and window_start < from_ms(%(until)s)
order by window_start;

-- name: write_night
-- Writes a night's value; it waits to be assessed.
insert into hrv_night (patient_id, night, starts_at, ends_at, windows, rmssd, sdnn, mean_heart_rate, ln_rmssd, modality,
                       settled)
values (%(patient)s, %(night)s, from_ms(%(starts_at)s), from_ms(%(ends_at)s), %(windows)s, %(rmssd)s, %(sdnn)s,
        %(mean_heart_rate)s, %(ln_rmssd)s, %(modality)s, false)
on conflict (patient_id, night) do update set
    starts_at = excluded.starts_at, ends_at = excluded.ends_at, windows = excluded.windows, rmssd = excluded.rmssd,
    sdnn = excluded.sdnn, mean_heart_rate = excluded.mean_heart_rate, ln_rmssd = excluded.ln_rmssd,
    modality = excluded.modality, settled = false;

-- name: patients_unsettled
-- Patients with nights that are over and not assessed yet.
select patient_id from hrv_night
where not settled and ends_at <= from_ms(%(now)s) and patient_id <> all(%(without)s::int[])
group by patient_id order by min(ends_at) limit %(limit)s;

-- name: nights
-- All nights of a patient that are over.
select night, to_ms(starts_at) as starts_at, to_ms(ends_at) as ends_at, windows, rmssd, sdnn, mean_heart_rate, ln_rmssd,
       modality
from hrv_night where patient_id = %(patient)s and ends_at <= from_ms(%(now)s)
order by night;

-- name: write_assessments
-- Writes how nights stand against the patient's baseline.
update hrv_night n set baseline = a.baseline, baseline_sd = a.baseline_sd, rolling_mean = a.rolling_mean, z = a.z,
    statistic = a.statistic, cusum = a.cusum, drift = a.drift, settled = true
from unnest(%(night)s::date[], %(baseline)s::float8[], %(baseline_sd)s::float8[], %(rolling_mean)s::float8[],
            %(z)s::float8[], %(statistic)s::float8[], %(cusum)s::float8[], %(drift)s::bool[])
    as a (night, baseline, baseline_sd, rolling_mean, z, statistic, cusum, drift)
where n.patient_id = %(patient)s and n.night = a.night
  and (not n.settled or (n.baseline, n.baseline_sd, n.rolling_mean, n.z, n.statistic, n.cusum, n.drift)
       is distinct from (a.baseline, a.baseline_sd, a.rolling_mean, a.z, a.statistic, a.cusum, a.drift));
