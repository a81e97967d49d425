"""Schedules of doses."""

from collections.abc import Sequence
from datetime import date, time, timedelta
from typing import Final

from gateway.clinic.provisioning.core import SQL, Core
from gateway.clinic.provisioning.errors import InvalidValueError
from gateway.clinic.provisioning.records import DoseRow

LONGEST_WINDOW_MIN: Final = 12 * 60
EVERY_DAY: Final = (1, 2, 3, 4, 5, 6, 7)
MAX_TIMES: Final = 24


class Doses(Core):
    """The part of Provisioning for medication."""

    async def add_dose(
        self,
        patient_id: int,
        medication: str,
        local_times: Sequence[time],
        *,
        weekdays: Sequence[int] = EVERY_DAY,
        compartment: int | None = None,
        window_before: int = 60,
        window_after: int = 60,
        valid_from: date | None = None,
        valid_until: date | None = None,
        critical: bool = False,
    ) -> int:
        """Add a schedule of doses; return its id.

        Times are the patient's local ones, weekdays ISO (1 is Monday), windows in minutes, dates inclusive; without
        `valid_from` the doses begin today, where the patient lives.
        """
        _check_name_and_place(medication, compartment)
        _check_times(local_times, weekdays, (window_before, window_after))
        async with self._connection.transaction():
            first = valid_from or self._now.astimezone(await self.timezone_of(patient_id)).date()
            if valid_until is not None and valid_until < first:
                raise InvalidValueError("the last day of the doses lies before their first")
            values = {
                "patient_id": patient_id,
                "medication": medication,
                "local_times": sorted(local_times),
                "weekdays": sorted(set(weekdays)),
                "compartment": compartment,
                "window_before": timedelta(minutes=window_before),
                "window_after": timedelta(minutes=window_after),
                "valid_from": first,
                "valid_until": valid_until,
                "critical": critical,
                "now": self._now,
            }
            return int(await self._value(SQL.add_dose, values))

    async def list_doses(self, patient_id: int | None = None) -> list[DoseRow]:
        """Return the schedules of one patient, or of everyone."""
        return await self._rows(DoseRow, SQL.list_doses, {"patient_id": patient_id})


def _check_name_and_place(medication: str, compartment: int | None) -> None:
    if not 1 <= len(medication) <= 200 or not medication.strip():
        raise InvalidValueError("a medication's name has 1 to 200 characters")
    if compartment is not None and not 0 <= compartment <= 255:
        raise InvalidValueError("a compartment is a number from 0 to 255")


def _check_times(local_times: Sequence[time], weekdays: Sequence[int], windows: Sequence[int]) -> None:
    if not 1 <= len(local_times) <= MAX_TIMES:
        raise InvalidValueError(f"a schedule has 1 to {MAX_TIMES} times a day")
    if len(set(local_times)) < len(local_times):
        raise InvalidValueError("a schedule names each time of day once")
    if any(at.tzinfo is not None for at in local_times):
        raise InvalidValueError("dose times are the patient's local times, without an offset")
    if not weekdays or not set(weekdays) <= set(EVERY_DAY):
        raise InvalidValueError("weekdays are 1 (Monday) to 7 (Sunday), at least one")
    if not all(0 <= window <= LONGEST_WINDOW_MIN for window in windows):
        raise InvalidValueError("a dose's window reaches at most 12 hours to either side")
