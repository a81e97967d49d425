"""The picture of one night: glucose, heart rate, alerts and doses above one another, for screens, paper and the shell."""

from __future__ import annotations

import html
import io
import re
import threading
from dataclasses import dataclass
from typing import Any, Final, Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from api.pictures.contents import AlertSpan, DoseMark, HeartRate, Limit, NightPicture
from api.pictures.curve import Curve, GlucoseUnit, curve_of
from api.pictures.lettering import FONT, Lettering, clean, families
from api.pictures.panels import (
    ALERT_INCHES,
    DOSE_INCHES,
    INK,
    LEFT,
    RIGHT,
    SMALL,
    WIDTH,
    draw_glucose,
    draw_heart_rate,
    draw_rows,
)
from api.pictures.rows import AlertRow, DoseRow, alert_rows, dose_rows, left_out
from api.pictures.timescale import TimeScale, night_span

__all__ = [
    "AlertSpan",
    "DoseMark",
    "Format",
    "GlucoseUnit",
    "HeartRate",
    "Limit",
    "NightPicture",
    "draw_night",
    "night_span",
]

Format = Literal["svg", "png", "pdf"]

_DOTS_PER_INCH: Final = 200
_HEAD, _GLUCOSE, _CLOCK, _HEART, _NOTE = 0.64, 2.7, 0.36, 0.75, 0.15
_SECOND_LINE: Final = 0.12
"""Inches: the heights of the parts."""
_STYLE: Final[dict[str, Any]] = {
    "axes.unicode_minus": False,
    "font.size": 8.5,
    "hatch.linewidth": 0.6,
    "path.simplify": False,  # every vertex is a reading
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "vigil",  # equal pictures have equal ids
}
_METADATA: Final[dict[Format, dict[str, None]]] = {
    "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    "png": {"Software": None},
    "pdf": dict.fromkeys(("Creator", "Producer", "CreationDate")),
}
_STYLE_SHEET: Final = re.compile(
    r"\s*<defs>\s*<style type=\"text/css\">\*\{stroke-linejoin: round; stroke-linecap: butt\}</style>\s*</defs>"
)
_drawing = threading.Lock()
"""matplotlib's settings are global and its fonts shared: one picture at a time."""


@dataclass(frozen=True, slots=True)
class _Drawing:
    """The parts of a night's picture."""

    night: NightPicture
    time: TimeScale
    curve: Curve
    alerts: list[AlertRow]
    doses: list[DoseRow]

    def notes(self) -> list[str]:
        """Sentences about what the picture leaves out or changes."""
        notes = left_out(self.night, self.alerts, self.doses)
        if self.curve.every.size > self.curve.at.size:
            notes.append(
                f"{self.curve.every.size} readings, of which {self.curve.at.size} are drawn: lowest and highest"
            )
        if self.curve.unused[0].size:
            notes.append("× warm-up, calibration or artifact")
        return notes


def draw_night(night: NightPicture, format: Format, *, unit: GlucoseUnit = "mmol/L") -> bytes:  # noqa: A002 - as asked
    """Return the picture; the same night gives the same bytes on the same machine. Thread-safe.

    An SVG begins with its element, so that it can be embedded in a page as it is; its text is text, and its `<title>`
    and `<desc>` describe it. A PNG is 1080 pixels wide. At most 5,000 readings (the lowest and highest of each
    stretch), 50 alerts (the gravest) and 50 doses are drawn, and the picture says so.
    """
    time = TimeScale(night.zone, night.start_ms, night.end_ms)
    parts = _Drawing(night, time, curve_of(night, unit), alert_rows(night, time), dose_rows(night, time))
    lettering = Lettering(svg=format == "svg")
    # matplotlib falls back to the next family for a missing character only if families are named one by one.
    fonts = {"font.family": ["sans-serif"] if format == "svg" else list(families()), "font.sans-serif": [FONT]}
    with _drawing, matplotlib.style.context(["default", {**_STYLE, **fonts}]):
        figure = _compose(parts, lettering)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=format, dpi=_DOTS_PER_INCH, metadata=_METADATA[format])
    if format != "svg":
        return buffer.getvalue()
    return _finish_svg(buffer.getvalue().decode(), parts, lettering).encode()


def _compose(parts: _Drawing, lettering: Lettering) -> Figure:
    """Put the panels under one another."""
    rows = ALERT_INCHES * len(parts.alerts) + DOSE_INCHES * len(parts.doses)
    heart = _HEART + 0.2 if parts.night.heart_rate is not None else 0.0
    notes = parts.notes()
    clock = _CLOCK + (_SECOND_LINE if parts.time.changes else 0.0)
    height = _HEAD + _GLUCOSE + clock + heart + rows + _NOTE * len(notes) + 0.08
    figure = Figure(figsize=(WIDTH, height))

    def panel(top: float, inches: float) -> Axes:
        place = (LEFT / WIDTH, 1 - (top + inches) / height, 1 - (LEFT + RIGHT) / WIDTH, inches / height)
        return figure.add_axes(place)

    _write_head(figure, parts, lettering, height)
    draw_glucose(panel(_HEAD, _GLUCOSE), parts.night, parts.curve, parts.time, lettering)
    top = _HEAD + _GLUCOSE + clock
    if parts.night.heart_rate is not None:
        draw_heart_rate(panel(top + 0.12, _HEART), parts.night.heart_rate, parts.time)
        top += heart
    if rows:
        draw_rows(panel(top, rows), parts.alerts, parts.doses, parts.time, lettering)
    for number, note in enumerate(notes):
        _write(figure, note, top + rows + 0.05 + _NOTE * number, height)
    return figure


def _write(figure: Figure, words: str, top: float, height: float, **kind: Any) -> None:
    style = {"fontsize": SMALL, "color": INK, **kind}
    figure.text(0.12 / WIDTH, 1 - top / height, words, va="top", parse_math=False, **style)


def _write_head(figure: Figure, parts: _Drawing, lettering: Lettering, height: float) -> None:
    _write(figure, lettering.draw(parts.night.label, 46), 0.08, height, fontsize=11, weight="bold")
    zone = str(parts.night.zone.at(parts.night.start_ms))
    words = f"{parts.time.dates}, {zone}, glucose in {parts.curve.scale.unit}"
    _write(figure, lettering.draw(words, 70), 0.33, height, fontsize=8.5)


def _finish_svg(svg: str, parts: _Drawing, lettering: Lettering) -> str:
    """Return the element alone, with the texts inserted, and a title and a description for screen readers."""
    element = lettering.into_svg(svg[svg.index("<svg ") :])
    # Embedded in a page, our style sheet would apply to the whole page; on the element it does the same.
    opening, body = _STYLE_SHEET.sub("", element, count=1).split(">", 1)
    title = html.escape(f"{clean(parts.night.label, 200)}, {parts.time.dates}")
    return (
        f'{opening} role="img" style="stroke-linejoin: round; stroke-linecap: butt">\n'
        f" <title>{title}</title>\n <desc>{html.escape(_describe(parts))}</desc>{body.rstrip()}\n"
    )


def _describe(parts: _Drawing) -> str:
    """Describe in sentences what the picture shows."""
    time, curve = parts.time, parts.curve
    start, end = time.clock(time.start_ms), time.clock(time.end_ms)
    said = [f"Glucose in {curve.scale.unit} from {start} to {end}, {time.zone.at(time.start_ms)}."]
    if curve.every.size == 0:
        said.append("No readings.")
    else:
        said.append(f"{curve.every.size} readings, {_extremes(curve, time)}.")
        silences = curve.silences(time.start_ms, parts.night.known_until_ms)
        said += [f"No data from {time.clock(one)} to {time.clock(other)}." for one, other in silences]
    said += [f"Alert: {clean(f'{row.words}. {row.sentence}', 400)}." for row in parts.alerts]
    said += [f"Dose: {row.clock} {clean(row.medication, 200)}: {row.fate}." for row in parts.doses]
    return " ".join([*said, *(f"{note}." for note in parts.notes())])


def _extremes(curve: Curve, time: TimeScale) -> str:
    heights = np.where(curve.is_lo, -np.inf, np.where(curve.is_hi, np.inf, curve.value))
    extremes = []
    for name, row in (("lowest", int(heights.argmin())), ("highest", int(heights.argmax()))):
        sentinel = "LO" if curve.is_lo[row] else "HI" if curve.is_hi[row] else None
        extremes.append(
            f"{name} {sentinel or curve.scale.number(curve.value[row])} at {time.clock(int(curve.at[row]))}"
        )
    return ", ".join(extremes)
