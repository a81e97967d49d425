"""How a patient takes their medicines: shares, correct days, streaks and drug holidays over the last local days."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from itertools import groupby
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api.database import fetch_all
from api.dependencies import TheSession
from api.openapi import problems
from api.patients import seen_patient
from gateway.clinic.zones import zone_of
from gateway.store.queries import load_queries
from streaming.doses.adherence import Adherence, adherence
from streaming.doses.calendar import DueDose
from streaming.doses.matching import DoseOutcome, DoseState

SQL = load_queries("api.sql", "adherence.sql")
router = APIRouter(prefix="/patients", tags=["patients"])

# No zone is a whole day from UTC, so every dose of these local days is due within two days of them.
_SLACK: Final = timedelta(days=2)


class DrugHoliday(BaseModel):
    """At least three days with doses, one after the other, on which none was taken; local dates, inclusive."""

    first: date
    last: date
    days: int


class Taking(BaseModel):
    """How doses were taken (Vrijens 2012, 10.1111/j.1365-2125.2012.04167.x). Shares are null where nothing is known."""

    prescribed: int = Field(description="Doses due on these days that were not paused, including those still to come.")
    judged: int = Field(description="Doses known to be taken or not taken; the shares refer to these.")
    taken: int = Field(description="At any time; a doubled dose counts once.")
    on_time: int = Field(description="Inside their window.")
    taking: float | None = Field(description="Taking adherence, 0 to 1.")
    timing: float | None = Field(description="Timing adherence: taken inside the window, 0 to 1.")
    days: int = Field(description="Local days on which all doses are judged.")
    correct_days: int = Field(description="Those of them on which every dose was taken and none twice.")
    correct_dosing: float | None = Field(description="The share of correct days, 0 to 1.")
    streak: int = Field(description="Doses in a row that were taken, up to the last that is known, of these days.")
    longest_streak: int
    holidays: list[DrugHoliday]


class MedicationTaking(Taking):
    """How the doses of one medication were taken, over all its schedules."""

    medication: str


class PatientTaking(Taking):
    """How a patient took all medicines together on the local days `first` to `last`, and each of them."""

    model_config = ConfigDict(title="Adherence")

    first: date
    last: date
    medications: list[MedicationTaking]


@dataclass(frozen=True, slots=True)
class _DoseRow:
    medication: str
    schedule_id: int
    due_at: int
    window_start: int
    window_end: int
    state: str
    taken_at: int | None

    def outcome(self) -> DoseOutcome:
        dose = DueDose(self.schedule_id, self.due_at, self.window_start, self.window_end)
        return DoseOutcome(dose, DoseState(self.state), self.taken_at)


@router.get("/{patient_id}/adherence", summary="How doses are taken", responses=problems(HTTPStatus.NOT_FOUND))
async def get_adherence(
    session: TheSession,
    patient_id: str,
    days: Annotated[int, Query(ge=1, le=366, description="How many local days back, today included.")] = 30,
) -> PatientTaking:
    """Shares of doses taken and taken on time, correct days, streaks, drug holidays; unknown doses are not counted."""
    patient = await seen_patient(session.connection, patient_id)
    zone = await zone_of(session.connection, patient)
    last = zone.local(round(session.now.timestamp() * 1000)).date()
    first = last - timedelta(days=days - 1)
    span = {"start": _midnight(first) - _SLACK, "end": _midnight(last) + _SLACK}
    rows = await fetch_all(session.connection, _DoseRow, SQL.doses, {"patient": patient, **span})

    def taking(some: Iterable[_DoseRow]) -> dict[str, Any]:
        return _fields(adherence((row.outcome() for row in some), zone, first, last))

    medications = [
        MedicationTaking(medication=medication, **taking(some))
        for medication, some in groupby(rows, key=lambda row: row.medication)
    ]
    prescribed = [one for one in medications if one.prescribed]
    return PatientTaking(first=first, last=last, medications=prescribed, **taking(rows))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _fields(found: Adherence) -> dict[str, Any]:
    shares = {"taking": found.taking, "timing": found.timing, "correct_dosing": found.correct_dosing}
    return {**asdict(found), **shares}
