"""One row of everything that the API may read, for each patient of the clinic, and one of what belongs to no patient."""

from datetime import timedelta

from psycopg.types.json import Jsonb

from tests.api.clinic import START, Clinic


def store_everything(clinic: Clinic) -> None:
    """Add to a clinic so that a row that is shown to the wrong eyes shows in a test, whichever table it is of."""
    for name in clinic.patients:
        clinic.alert(name)
        _store_data(clinic, name)
        _store_doses_and_nights(clinic, name)
        _store_rules(clinic, name)
    clinic.insert(
        "quarantine", received_at=START, topic="vigil/v1/ghost/telemetry", device_id="ghost", reason="unknown_device",
        detail="no such device", payload=b"{", payload_bytes=1, payload_sha256=b"ghost",
    )  # fmt: skip
    clinic.insert("quarantine_count", device_id="ghost", day=START, reason="unknown_device", refused=1, kept=1)
    spare = clinic.device("spare", None)
    clinic.insert("device_status", device_key=spare, online=False)
    clinic.insert("rule_setting", patient_id=None, rule="hyperglycaemia", changes=Jsonb({}), valid_from=START)
    clinic.insert(
        "refresh_token", token_hash=b"t", family="0" * 32, user_id=clinic.users["dora"], issued_at=START,
        expires_at=START + timedelta(days=1),
    )  # fmt: skip
    clinic.insert("login_attempt", account=b"a", address="192.0.2.7", window_started_at=START, attempts=1)


def _store_data(clinic: Clinic, name: str) -> None:
    device = f"cgm-{name.lower()}"
    patient, key = clinic.patients[name], clinic.devices[device]
    clinic.insert("device_status", device_key=key, online=True)
    clinic.insert("expected_code", patient_id=patient, code=1, expected_interval="5 min")
    clinic.readings(device, name, [(START, 5.0, 1, 0)])
    clinic.insert(
        "rr_series", at=START, ends_at=START, received_at=START, device_key=key, patient_id=patient, unit=4, flags=0,
        intervals=[800.0],
    )  # fmt: skip
    clinic.insert("pillbox_event", device_key=key, patient_id=patient, type="tamper", at=START, received_at=START)
    clinic.insert(
        "conflict", device_key=key, patient_id=patient, code=1, at=START, unit=1, flags=0, value=6.0, kept_value=5.0,
        kept_unit=1, received_at=START,
    )  # fmt: skip
    clinic.insert(
        "quarantine", received_at=START, topic=f"vigil/v1/{device}/telemetry", device_id=device, patient_id=patient,
        reason="malformed", detail="no JSON", payload=b"{", payload_bytes=1, payload_sha256=name.encode(),
    )  # fmt: skip


def _store_doses_and_nights(clinic: Clinic, name: str) -> None:
    patient = clinic.patients[name]
    schedule = clinic.insert(
        "dose_schedule", patient_id=patient, medication="Metformin", local_times=["08:00"], valid_from=START,
        created_at=START,
    )["id"]  # fmt: skip
    clinic.insert(
        "dose", schedule_id=schedule, patient_id=patient, due_at=START, window_start=START, window_end=START,
        state="taken", updated_at=START,
    )  # fmt: skip
    clinic.insert("hrv_night", patient_id=patient, night=START, starts_at=START, ends_at=START, windows=12)
    clinic.insert(
        "hrv_window", patient_id=patient, window_start=START, device_key=clinic.devices[f"cgm-{name.lower()}"],
        beats=300, coverage=1, corrected=0, valid=True,
    )  # fmt: skip


def _store_rules(clinic: Clinic, name: str) -> None:
    patient = clinic.patients[name]
    clinic.insert("rule_setting", patient_id=patient, rule="hyperglycaemia", changes=Jsonb({}), valid_from=START)
    clinic.insert(
        "pause", patient_id=patient, valid="[2026-11-22T00:00Z,2026-11-23T00:00Z)", reason="in hospital",
        recorded_at=START,
    )  # fmt: skip
