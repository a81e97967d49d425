"""The picture of a stored night over HTTP: what of the store is in it, as what it is served, who gets it."""

import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from psycopg.types.json import Jsonb

from api import nights
from tests.api.clinic import Clinic, Clock, is_problem
from tests.api.drawn import LEFT, WIDTH, description, gids, marks, path, texts

MMOL, MG_DL = 1, 2
BELOW, WARMUP, OFF_BODY = 1, 4, 32
FIRST = datetime(2026, 11, 21, 14, 0, tzinfo=UTC)  # 22:00 in Shanghai
NIGHT = "2026-11-22"


def url(clinic: Clinic, patient: str = "Ada", night: str = NIGHT) -> str:
    return f"/api/v1/patients/{clinic.patients[patient]}/nights/{night}/picture"


async def picture(client: httpx.AsyncClient, clinic: Clinic, **query: str) -> ET.Element:
    response = await client.get(url(clinic), params=query)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/svg+xml"
    return ET.fromstring(response.text)  # noqa: S314 - of our own making


@pytest.fixture
def morning(clock: Clock) -> Clock:
    """The clock at 09:00 in Shanghai, when the night is over."""
    clock.now = FIRST + timedelta(hours=11)
    return clock


@pytest.fixture
def night(clinic: Clinic) -> Clinic:
    """Ada's night: a reading every 5 min from two sensors in two units, an alert, doses, a heart."""
    times = [FIRST + timedelta(minutes=5 * step) for step in range(120)]
    clinic.readings("cgm-ada", "Ada", [(at, 4.0 if step == 50 else 6.0, MMOL, 0) for step, at in enumerate(times)])
    clinic.device("second", "Ada")
    second = [(times[50], 54.0, MG_DL, 0), (times[51], None, MG_DL, BELOW), (times[52], 200.0, MG_DL, WARMUP)]
    clinic.readings("second", "Ada", second)
    clinic.readings("cgm-ada", "Ada", [(FIRST - timedelta(milliseconds=1), 9.0, MMOL, 0)])
    clinic.readings("cgm-ben", "Ben", [(at, 11.0, MMOL, 0) for at in times])
    beats = [(FIRST + timedelta(seconds=10 * step), 60.0 + step % 3, 3, 0) for step in range(60)]
    clinic.readings("second", "Ada", [*beats, (FIRST + timedelta(hours=5), 250.0, 3, OFF_BODY)], code=2)
    opened = FIRST + timedelta(hours=4)
    clinic.alert("Ada", opened, severity="urgent", resolved_at=opened + timedelta(hours=1), state="resolved")
    clinic.alert("Ada", FIRST - timedelta(days=3), rule="hrv_drift", severity="medium", summary="HRV is falling")
    clinic.alert("Ada", opened, rule="urgent_low", state="withdrawn")
    clinic.alert("Ada", FIRST - timedelta(days=3), state="resolved", resolved_at=FIRST - timedelta(days=2))
    clinic.alert("Ben", opened)
    schedule = clinic.insert(
        "dose_schedule", patient_id=clinic.patients["Ada"], medication="Metformin", local_times=["22:30"],
        valid_from=FIRST, created_at=FIRST,
    )["id"]  # fmt: skip
    for hours, state, taken in ((0.5, "late", 2.0), (-1.0, "late", 1.0), (-2.0, "missed", None), (34.0, "due", None)):
        due = FIRST + timedelta(hours=hours)
        clinic.insert(
            "dose", schedule_id=schedule, patient_id=clinic.patients["Ada"], due_at=due, window_start=due,
            window_end=due + timedelta(hours=1), state=state, updated_at=due,
            taken_at=None if taken is None else FIRST + timedelta(hours=taken),
        )  # fmt: skip
    return clinic


@pytest.mark.usefixtures("morning")
async def test_a_stored_night_is_all_there(dora: httpx.AsyncClient, night: Clinic) -> None:
    root = await picture(dora, night)
    words = texts(root)
    assert "Ada" in words
    assert "21–22 Nov 2026, Asia/Shanghai, glucose in mmol/L" in words
    assert "120 readings, lowest LO at 02:15" in description(root)
    assert len(marks(root, "glucose-points")) == 119
    assert len(marks(root, "glucose-lo")) == 1
    assert len(marks(root, "glucose-unused")) == 1
    assert {"3.1 urgent", "4.0 night"} <= set(words)
    assert len(path(root, "heart-line-0")) == 10
    assert [gid for gid in gids(root, "alert-") if gid.count("-") == 2 and "runs" not in gid] == [
        "alert-0-medium",
        "alert-1-urgent",
    ]
    assert [x for x, _ in path(root, "alert-1-urgent")][:2] == pytest.approx([LEFT + WIDTH * n / 10 for n in (4, 5)])
    assert "hrv drift, medium: since 18 Nov 22:00, still open" in words
    doses = [each for each in words if "Metformin" in each]
    assert doses == ["21:00 Metformin: late, taken 23:00", "22:30 Metformin: late, taken 00:00"]
    assert "not yet" not in words


async def test_the_rest_of_tonight_has_not_happened_yet(dora: httpx.AsyncClient, night: Clinic, clock: Clock) -> None:
    clock.now = FIRST + timedelta(hours=4, minutes=30)
    root = await picture(dora, night)
    assert "not yet" in texts(root)
    assert max(x for x, _ in path(root, "alert-0-medium")) == pytest.approx(LEFT + WIDTH * 0.45)


@pytest.mark.usefixtures("morning")
async def test_the_unit_of_the_axis_is_the_reader_s(dora: httpx.AsyncClient, night: Clinic) -> None:
    words = texts(await picture(dora, night, unit="mg/dL"))
    assert {"55 urgent", "72 night", "target 70–180"} <= set(words)


@pytest.mark.usefixtures("morning")
async def test_the_limits_are_those_that_held_that_night(dora: httpx.AsyncClient, night: Clinic) -> None:
    changes = [(FIRST - timedelta(days=9), 4.4), (FIRST + timedelta(hours=10), 4.2)]
    for at, limit in changes:
        night.insert(
            "rule_setting", patient_id=night.patients["Ada"], rule="nocturnal_hypoglycaemia",
            changes=Jsonb({"limit_mmol": limit}), valid_from=at,
        )  # fmt: skip
    words = texts(await picture(dora, night))
    assert "4.4 night" in words
    assert not {"4.0 night", "4.2 night"} & set(words)


@pytest.mark.usefixtures("morning")
async def test_a_night_of_nothing_says_so(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    root = await picture(dora, clinic)
    assert "no readings" in texts(root)
    assert "heart rate, /min" not in texts(root)


async def test_a_svg_may_style_itself_and_nothing_else(dora: httpx.AsyncClient, night: Clinic) -> None:
    headers = (await dora.get(url(night))).headers
    assert headers["content-security-policy"] == (
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-disposition"] == 'inline; filename="night-2026-11-22.svg"'


async def test_a_png_is_a_png(dora: httpx.AsyncClient, night: Clinic) -> None:
    response = await dora.get(url(night), params={"format": "png"})
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors")
    assert response.content.startswith(b"\x89PNG\r\n\x1a\n")


async def test_what_cannot_be_drawn_is_refused(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    wrong: list[tuple[str, dict[str, str], str]] = [
        ("2026-11-31", {}, "path.night"),
        ("1999-12-31", {}, "path.night"),
        ("2200-01-01", {}, "path.night"),
        (NIGHT, {"format": "pdf"}, "query.format"),
        (NIGHT, {"unit": "g/l"}, "query.unit"),
    ]
    for night, query, location in wrong:
        problem = is_problem(await dora.get(url(clinic, night=night), params=query), 422)
        assert problem["errors"][0]["location"] == location


async def test_only_the_care_team_sees_it(
    dora: httpx.AsyncClient, emil: httpx.AsyncClient, stranger: httpx.AsyncClient, night: Clinic
) -> None:
    assert (await dora.get(url(night))).status_code == 200
    assert is_problem(await emil.get(url(night)), 404)
    assert is_problem(await stranger.get(url(night)), 401)
    assert is_problem(await dora.get(f"/api/v1/patients/999/nights/{NIGHT}/picture"), 404)


async def test_too_many_pictures_at_once_are_refused_until_some_are_done(
    dora: httpx.AsyncClient, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nights, "MAX_WAITING", 0)
    assert is_problem(await dora.get(url(clinic)), 503)["detail"] == "Too many pictures are being drawn."
    monkeypatch.setattr(nights, "MAX_WAITING", 1)
    assert (await dora.get(url(clinic))).status_code == 200
    assert (await dora.get(url(clinic))).status_code == 200
