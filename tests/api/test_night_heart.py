"""Whose heart is drawn in the picture of a night, and which beats."""

from datetime import datetime, timedelta

import httpx
import pytest

from devices.vocabulary import Flag
from tests.api.clinic import Clinic
from tests.api.drawn import gids, path
from tests.api.test_nights import FIRST, picture

PER_MIN, HEART_RATE = 3, 2


def minutes(start: datetime, flags: int = 0) -> list[tuple[datetime, float | None, int, int]]:
    """Return ten minutes of heart rate, one a minute."""
    return [(start + timedelta(minutes=minute), 60.0 + minute, PER_MIN, flags) for minute in range(10)]


@pytest.mark.usefixtures("clock")
async def test_a_band_that_changes_hands_in_the_night_shows_each_wearer_their_own_heart(
    dora: httpx.AsyncClient, clinic: Clinic
) -> None:
    handed_over = FIRST + timedelta(hours=2)
    clinic.device("band", "Ada", "wristband", valid=f"[-infinity,{handed_over})")
    clinic.insert(
        "assignment", device_key=clinic.devices["band"], patient_id=clinic.patients["Ben"],
        valid=f"[{handed_over},infinity)", created_at=FIRST,
    )  # fmt: skip
    clinic.readings("band", "Ada", minutes(FIRST), HEART_RATE)
    clinic.readings("band", "Ben", minutes(handed_over), HEART_RATE)
    root = await picture(dora, clinic)
    assert gids(root, "heart-line-") == ["heart-line-0"]
    assert len(path(root, "heart-line-0")) == 10


@pytest.mark.parametrize("flag", [Flag.ARTIFACT, Flag.OFF_BODY])
async def test_beats_that_are_none_are_not_drawn(dora: httpx.AsyncClient, clinic: Clinic, flag: Flag) -> None:
    clinic.device("band", "Ada", "wristband")
    clinic.readings("band", "Ada", minutes(FIRST), HEART_RATE)
    clinic.readings("band", "Ada", minutes(FIRST + timedelta(hours=2), int(flag)), HEART_RATE)
    root = await picture(dora, clinic)
    assert gids(root, "heart-line-") == ["heart-line-0"]
