"""The rules that watch a patient: settings with their history, group, pauses."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from api.dependencies import Session, TheSession, Time
from api.openapi import problems
from api.patients import seen_patient
from api.problems import ProblemError, invalid, not_found
from api.rules_view import Pause, Thresholds
from gateway.clinic.provisioning import AlreadyExistsError, InvalidValueError, NotFoundError, Rules
from streaming.episodes import Rule
from streaming.rules.presets import PatientGroup

router = APIRouter(prefix="/patients/{patient_id}", tags=["patients"])

Note = Annotated[str | None, Field(max_length=500, pattern=r"^[^\x00]*$", description="Why; kept in the history.")]
_SEEN = problems(HTTPStatus.NOT_FOUND)
_CHANGED = problems(HTTPStatus.NOT_FOUND, HTTPStatus(413))


class RuleChange(BaseModel):
    """Changed settings of one rule; the others stay as they were set for the patient before."""

    changes: dict[str, JsonValue] | None = Field(
        description="Settings by name, and `enabled`. null: remove the patient's own settings of the rule.",
        examples=[{"limit_mmol": 4.4}, {"limits": [{"code": "heart_rate", "high": 120, "duration_minutes": 10}]}],
    )
    note: Note = None


class GroupChange(BaseModel):
    """The group whose settings a patient starts with."""

    group: PatientGroup
    note: Note = None


class NewPause(BaseModel):
    """A rest from all rules, from `from` on and before `until`."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    until: Time = Field(description="At most 366 days from now.")
    begin: Time | None = Field(None, alias="from", description="Not before now; now unless given.")
    reason: str = Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$", examples=["in hospital"])


@router.get("/thresholds", summary="By which rules a patient is watched", responses=_SEEN)
async def get_thresholds(session: TheSession, patient_id: str) -> Thresholds:
    """Return every rule with its settings and their layer, the pauses, and who changed what, when and why."""
    key = await seen_patient(session.connection, patient_id)
    return Thresholds.of(await _rules(session).rules_in_force(key))


@router.put("/thresholds/{rule}", summary="Set a rule for a patient", responses=_CHANGED)
async def set_threshold(session: TheSession, patient_id: str, rule: Rule, change: RuleChange) -> Thresholds:
    """Change a rule from now on; earlier measurements stay judged as they were. Returns the new rules."""
    key = await seen_patient(session.connection, patient_id)
    with _refusals():
        await _rules(session).set_rule(
            key, rule, change.changes or {}, reset=change.changes is None, by=session.user_id, note=change.note
        )
    return Thresholds.of(await _rules(session).rules_in_force(key))


@router.put("/group", summary="Give a patient another group", responses=_CHANGED)
async def set_group(session: TheSession, patient_id: str, change: GroupChange) -> Thresholds:
    """Change the group from now on; the patient's own settings stay. Returns the new rules."""
    key = await seen_patient(session.connection, patient_id)
    with _refusals():
        await _rules(session).set_group(key, change.group, by=session.user_id, note=change.note)
    return Thresholds.of(await _rules(session).rules_in_force(key))


@router.post(
    "/pauses",
    summary="Have a patient's rules rest",
    status_code=HTTPStatus.CREATED,
    responses=problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus(413)),
)
async def add_pause(session: TheSession, patient_id: str, pause: NewPause) -> Pause:
    """Pause the patient: data are kept, no rule alerts, doses are `paused`. 409 if it overlaps another pause."""
    key = await seen_patient(session.connection, patient_id)
    with _refusals():
        return Pause.of(
            await _rules(session).pause(key, pause.until, pause.reason, begin=pause.begin, by=session.user_id)
        )


@router.delete("/pauses/current", summary="End a patient's pause", status_code=HTTPStatus.NO_CONTENT, responses=_SEEN)
async def end_pause(session: TheSession, patient_id: str) -> None:
    """End the current pause now; otherwise cancel the next planned one; 404 if there is neither."""
    key = await seen_patient(session.connection, patient_id)
    with _refusals():
        await _rules(session).end_pause(key, by=session.user_id)


def _rules(session: Session) -> Rules:
    return Rules(session.connection, None, session.now)


@contextmanager
def _refusals() -> Iterator[None]:
    """Answer refusals of provisioning with a problem that names the part of the request."""
    try:
        yield
    except InvalidValueError as error:
        raise invalid(f"body.{error.field}" if error.field else "body", str(error)) from error
    except AlreadyExistsError as error:
        raise ProblemError(HTTPStatus.CONFLICT, f"{error}.", error="paused_already") from error
    except NotFoundError as error:
        raise not_found() from error
