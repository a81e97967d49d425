"""A patient's rules as in the contract, for the API's callers and for `vigil patient rules --json`."""

from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.alert_view import PublicId
from gateway.clinic.provisioning.records import PauseRow, RulesInForce
from streaming.rules.presets import PatientGroup


class RuleInForce(BaseModel):
    """One rule as it is now."""

    enabled: bool
    settings: dict[str, Any] = Field(description="For a rule that is off, those it would have.")
    layer: Literal["default", "group", "clinic", "patient"] = Field(
        description="The topmost layer with a setting of the rule."
    )


class RuleChangeEntry(BaseModel):
    """A change of rules from a time on."""

    layer: Literal["group", "clinic", "patient"]
    rule: str | None = Field(description="null: the patient was given another group.")
    changes: dict[str, Any] = Field(description="All settings of the rule in the layer from then on; may be empty.")
    valid_from: datetime
    changed_by: PublicId | None = Field(description="Id of the user who did it; null: from the shell.")
    changed_by_email: str | None
    note: str | None


class Pause(BaseModel):
    """A rest from all rules: data are kept, doses are paused."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    id: PublicId
    begin: datetime = Field(alias="from")
    until: datetime
    reason: str
    recorded_at: datetime
    changed_by: PublicId | None = Field(description="Id of the user who entered it; null: from the shell.")
    ended_at: datetime | None = Field(description="When somebody ended it before its time.")
    ended_by: PublicId | None

    @classmethod
    def of(cls, row: PauseRow) -> "Pause":
        """Return a stored pause in the contract's form."""
        return cls.model_validate(asdict(row))


class Thresholds(BaseModel):
    """The rules that watch a patient. Pauses and history are sorted latest first."""

    group: PatientGroup | None = Field(description="null: these are the clinic's.")
    paused_until: datetime | None = Field(description="All rules rest until then.")
    rules: dict[str, RuleInForce]
    pauses: list[Pause]
    history: list[RuleChangeEntry]

    @classmethod
    def of(cls, found: RulesInForce) -> "Thresholds":
        """Return the rules in force in the contract's form."""
        return cls(
            group=found.group,
            paused_until=found.paused_until,
            rules={
                row.rule.value: RuleInForce.model_validate(
                    {"enabled": row.enabled, "settings": row.settings, "layer": row.layer}
                )
                for row in found.rules
            },
            pauses=[Pause.of(row) for row in found.pauses],
            history=[RuleChangeEntry.model_validate(asdict(row)) for row in found.history],
        )
