"""The Alert of the contract, made from the alert's row or from its snapshot in the outbox."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetPydanticSchema
from pydantic.config import JsonDict
from pydantic_core import core_schema

from alerts import reconcile
from streaming import episodes


def _one_of(words: type[StrEnum]) -> GetPydanticSchema:
    """Take one of the words, which the contract lists at each place where it may stand."""
    return GetPydanticSchema(lambda _source, _handler: core_schema.literal_schema([word.value for word in words]))


Severity = Annotated[str, _one_of(episodes.Severity)]
AlertState = Annotated[str, _one_of(reconcile.AlertState)]
DataState = Literal["current", "unknown"]


def _public_id(value: object) -> object:
    return str(value) if isinstance(value, int) else value


PublicId = Annotated[str, BeforeValidator(_public_id)]
"""An id as clients see it, an opaque string; made from the database's number."""

_EXAMPLE: JsonDict = {
    "id": "41",
    "patient_id": "7",
    "rule": "nocturnal_hypoglycaemia",
    "severity": "high",
    "grade": 3,
    "answered_grade": None,
    "unanswered": False,
    "technical": False,
    "state": "open",
    "opened_at": "2026-11-22T03:10:00Z",
    "resolved_at": None,
    "raised_at": "2026-11-22T03:10:00.412Z",
    "updated_at": "2026-11-22T03:10:00.412Z",
    "retrospective": False,
    "data": "current",
    "summary": "Glucose 3.8 mmol/L at 03:10",
    "evidence": {"lowest": {"value": 3.8, "unit": "mmol/L", "at": "2026-11-22T03:10:00Z"}},
    "acknowledged_by": None,
    "superseded_by": None,
}


class Alert(BaseModel):
    """One episode that somebody should know about."""

    model_config = ConfigDict(frozen=True, extra="ignore", json_schema_extra={"examples": [_EXAMPLE]})

    id: PublicId
    patient_id: PublicId
    rule: str = Field(description="Which rule found it, such as nocturnal_hypoglycaemia, hrv_drift, missed_dose.")
    severity: Severity
    grade: int = Field(
        default_factory=lambda known: (
            episodes.Severity(known["severity"]).rank + 1
        ),  # an event from before there were grades
        description="1 low, 2 medium, 3 high, 4 urgent, 5 urgent below 2.5 mmol/L (45 mg/dL) or LO: the gravest so far.",
    )
    answered_grade: int | None = Field(
        None,
        description="The gravest that somebody saw who acknowledged or resolved it; worse than that, it is open again.",
    )
    unanswered: bool = Field(False, description="It ended, and nobody had answered it at its grade.")
    technical: bool = Field(description="About a device or missing data rather than about the patient's health.")
    state: AlertState
    opened_at: datetime = Field(description="Event time: when the finding began, by the readings' own time stamps.")
    resolved_at: datetime | None = Field(description="Event time: when the finding ended; null: it has not.")
    raised_at: datetime = Field(description="When Vigil wrote the alert.")
    updated_at: datetime
    retrospective: bool = Field(description="Found late, in data that came long after they were measured.")
    data: DataState = Field(description="unknown: the data stopped, so the present is unknown.")
    summary: str
    evidence: dict[str, Any]
    acknowledged_by: PublicId | None = Field(description="Id of the user who acknowledged it.")
    superseded_by: PublicId | None = Field(description="Id of the alert that a withdrawn one was merged into.")


def alert_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an alert's row, or its snapshot in the outbox, as the JSON object of the contract."""
    return Alert.model_validate(row).model_dump(mode="json")
