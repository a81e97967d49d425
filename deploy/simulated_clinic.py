"""Provisions the people and devices of simulation plans."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from devices.vocabulary import Code
from firmware_sim.plan import PatientPlan
from firmware_sim.scenarios import Start
from gateway.clinic.provisioning import NewDevice, NewPatient, Provisioning

GLUCOSE_EVERY = timedelta(minutes=5)


async def provision(
    provisioning: Provisioning,
    plans: Sequence[PatientPlan],
    start: Start,
    on_account: Callable[[int], None] | None = None,
) -> tuple[list[int], dict[str, str]]:
    """Add patients, dose schedules and devices, worn since the history began; return patient ids, and secrets by device.

    `on_account` hears how many more broker accounts are made.
    """
    since = datetime.fromtimestamp(start.history_from_ms / 1000, UTC)
    ids = await provisioning.add_patients(
        [
            NewPatient(
                plan.name,
                plan.timezone,
                hypoglycaemia_risk=plan.hypoglycaemia_risk,
                expected={Code.GLUCOSE: GLUCOSE_EVERY},
            )
            for plan in plans
        ]
    )
    for patient_id, plan in zip(ids, plans, strict=True):
        await add_doses(provisioning, patient_id, plan)
    devices = [
        NewDevice(device.id, device.model, patient_id, since)
        for patient_id, plan in zip(ids, plans, strict=True)
        for device in plan.devices
    ]
    return ids, await provisioning.add_devices(devices, on_account)


async def add_doses(provisioning: Provisioning, patient_id: int, plan: PatientPlan) -> None:
    """Add the dose schedules of a plan to its patient."""
    for dose in plan.doses:
        await provisioning.add_dose(
            patient_id,
            dose.medication,
            dose.at,
            compartment=dose.compartment,
            window_before=dose.window_before_minutes,
            window_after=dose.window_after_minutes,
            valid_from=dose.valid_from,
        )
