"""Nights to draw, and where things are in the SVG that came of them."""

import re
import xml.etree.ElementTree as ET
from datetime import date
from typing import Any

import numpy as np
import pytest

from api.pictures.night import AlertSpan, NightPicture, draw_night, night_span
from streaming.zones import HOUR_MS, ZoneHistory

SHANGHAI = ZoneHistory.of("Asia/Shanghai")
BERLIN = ZoneHistory.of("Europe/Berlin")
NIGHT = date(2026, 11, 22)
START, END = night_span(SHANGHAI, NIGHT)
# Where the axes of the curve lie, in points: 0.5 in from the left, 0.64 in from the top, 4.22 in wide, 2.7 in high.
LEFT, TOP, WIDTH, HEIGHT = 36.0, 46.08, 303.84, 194.4
SVG = "{http://www.w3.org/2000/svg}"


def night(hours: list[float], mmol: list[float], flags: list[int] | None = None, **more: Any) -> NightPicture:
    """A night with readings so many hours after 22:00."""
    at = START + np.rint(np.array(hours) * HOUR_MS).astype(np.int64)
    bits = np.array(flags if flags is not None else [0] * len(hours), dtype=np.int16)
    plain = {"label": "Wei Chen", "zone": SHANGHAI, "start_ms": START, "end_ms": END}
    return NightPicture(**{**plain, "at": at, "mmol": np.array(mmol, dtype=np.float64), "flags": bits, **more})


def usual(**more: Any) -> NightPicture:
    """Every 5 min of the night."""
    hours = [step / 12 for step in range(120)]
    return night(hours, [6 + 2 * np.sin(hour) for hour in hours], **more)


def svg(picture: NightPicture, **options: Any) -> ET.Element:
    return ET.fromstring(draw_night(picture, "svg", **options))  # noqa: S314 - of our own making


def part(root: ET.Element, gid: str) -> ET.Element:
    found = root.findall(f".//{SVG}g[@id='{gid}']")
    assert len(found) == 1, gid
    return found[0]


def gids(root: ET.Element, beginning: str) -> list[str]:
    return [one.attrib["id"] for one in root.iter(f"{SVG}g") if one.get("id", "").startswith(beginning)]


def marks(root: ET.Element, gid: str) -> list[tuple[float, float]]:
    return [(float(use.attrib["x"]), float(use.attrib["y"])) for use in part(root, gid).iter(f"{SVG}use")]


def path(root: ET.Element, gid: str) -> list[tuple[float, float]]:
    (drawn,) = part(root, gid).iter(f"{SVG}path")
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", drawn.attrib["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def texts(root: ET.Element) -> list[str]:
    return ["".join(one.itertext()).translate({0x2068: None, 0x2069: None}) for one in root.iter(f"{SVG}text")]


def x_of(hour: float) -> float:
    return LEFT + WIDTH * hour / 10


def y_of(mmol: float) -> float:
    """The height of a value on the usual axis, 2 to 12 mmol/L."""
    return TOP + HEIGHT * (12 - mmol) / 10


def near(places: list[tuple[float, float]]) -> Any:
    return [pytest.approx(place, abs=0.01) for place in places]


def description(root: ET.Element) -> str:
    return "".join(root.findtext(f"{SVG}desc") or "")


def alert(*, opened: float, resolved: float | None, severity: str = "high", **more: Any) -> AlertSpan:
    ends = None if resolved is None else START + round(resolved * HOUR_MS)
    rule = more.pop("rule", "nocturnal_hypoglycaemia")
    return AlertSpan(rule, severity, START + round(opened * HOUR_MS), ends, **more)
