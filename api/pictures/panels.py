"""The parts of a picture as matplotlib draws them: the curve, the heart, the rows of alerts and doses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, pairwise
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from api.pictures.contents import HeartRate, Limit, NightPicture
from api.pictures.curve import Curve, parts, stretches
from api.pictures.lettering import Lettering
from api.pictures.rows import COLOURS, HATCHES, MARKERS, OTHER_MARKER, AlertRow, DoseRow
from api.pictures.timescale import TimeScale
from streaming.episodes import Severity
from streaming.readings import Bool, Float64
from streaming.zones import MINUTE_MS

INK: Final = "#1b2a38"
_CURVE: Final = "#0b4f8a"
_QUIET: Final = "#5c6670"
_NIGHT: Final = "#eef0f4"
_TARGET: Final = "#dcead9"
_SILENT: Final = "#cfd3d8"
SMALL: Final = 7.5
COLUMNS: Final = 84
"""Columns of small type that fit into a row."""
LEFT, RIGHT, WIDTH = 0.5, 0.68, 5.4
"""Inches: the margins beside the axes, and the whole picture: what a phone shows without zooming."""
ALERT_INCHES, DOSE_INCHES = 0.46, 0.32
_NARROW_INCHES: Final = 0.6
_HEART_GAP_MS: Final = 10 * MINUTE_MS
_DASHES: Final = ((0, (6, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 3)))


def prepare(axes: Axes, time: TimeScale) -> None:
    """Give a panel the time axis, without labels."""
    axes.set_xlim(0, time.hours)
    axes.set_xticks([float(place) for place in time.x(np.array([tick.at for tick in time.ticks], dtype=np.int64))], [])
    axes.tick_params(length=2, labelsize=SMALL, colors=INK)
    axes.grid(visible=True, axis="x", color="#c9ced4", linewidth=0.5)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_linewidth(0.6)


def draw_glucose(axes: Axes, night: NightPicture, curve: Curve, time: TimeScale, lettering: Lettering) -> None:
    """Draw the curve over target, limits, night and gaps, with the local clock below."""
    prepare(axes, time)
    axes.set_xticks(axes.get_xticks(), [tick.label for tick in time.ticks])
    axes.set_ylim(curve.scale.floor, curve.scale.top)
    _draw_nights(axes, time)
    _draw_limits(axes, night, curve, lettering)
    _draw_silences(axes, night, curve, time)
    _draw_readings(axes, curve, time)
    for number, at in enumerate(time.changes):
        _draw_clock_change(axes, number, time.x_within(at))


def _draw_clock_change(axes: Axes, number: int, place: float) -> None:
    line = axes.axvline(place, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    line.set_gid(f"clock-change-{number}")
    above = axes.get_xaxis_transform()
    axes.text(place, 1.008, "clock change", transform=above, ha="center", fontsize=SMALL - 1, color=INK)


def _draw_nights(axes: Axes, time: TimeScale) -> None:
    for number, (start, end) in enumerate(time.night_spans):
        band = axes.axvspan(time.x_within(start), time.x_within(end), color=_NIGHT, linewidth=0, zorder=0)
        band.set_gid(f"night-{number}")
        place = (time.x_within(start), 0.985)
        axes.text(
            *place, " night", transform=axes.get_xaxis_transform(), va="top", fontsize=SMALL, color=_QUIET, zorder=0.6
        )


def _draw_limits(axes: Axes, night: NightPicture, curve: Curve, lettering: Lettering) -> None:
    scale = curve.scale
    low, high = (scale.limit(mmol) for mmol in night.target)
    band = axes.axhspan(low, high, color=_TARGET, linewidth=0, alpha=0.75, zorder=0.5)
    band.set_gid("target")
    words = f"target {scale.number(low)}–{scale.number(high)}"
    axes.text(0.01, high, words, transform=axes.get_yaxis_transform(), va="bottom", fontsize=SMALL, color=_QUIET)
    for edge in (low, high):
        axes.axhline(edge, color=_QUIET, linewidth=0.5, zorder=0.6)
    ordered = sorted(night.limits, key=lambda limit: limit.mmol)
    # The name of a limit beyond the axis is placed at its edge, with an arrow and without a line.
    edges = [min(max(scale.limit(limit.mmol), scale.floor), scale.top) for limit in ordered]
    places = _apart(edges, (scale.top - scale.floor) * 0.055)
    for number, (limit, place, dash) in enumerate(zip(ordered, places, cycle(_DASHES), strict=False)):
        value = scale.limit(limit.mmol)
        if scale.floor <= value <= scale.top:
            line = axes.axhline(value, color=INK, linewidth=0.9, linestyle=dash, zorder=1)
            line.set_gid(f"limit-{number}")
        _name_limit(axes, limit, curve, place, lettering)


def _name_limit(axes: Axes, limit: Limit, curve: Curve, place: float, lettering: Lettering) -> None:
    value = curve.scale.limit(limit.mmol)
    arrow = "↑" if value > curve.scale.top else "↓" if value < curve.scale.floor else ""
    words = lettering.draw(f"{arrow}{curve.scale.number(value)} {limit.name}", 11)
    axes.text(1.01, place, words, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL, parse_math=False)


def _apart(places: Sequence[float], distance: float) -> list[float]:
    """Return ascending places moved up where they are too close together to be readable."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + distance) if moved else place)
    return moved


def _draw_silences(axes: Axes, night: NightPicture, curve: Curve, time: TimeScale) -> None:
    until = night.known_until_ms
    if curve.every.size == 0 and until > night.start_ms:
        axes.text(
            0.5, 0.5, "no readings", transform=axes.transAxes, ha="center", va="center", fontsize=14, color=INK
        ).set_gid("no-readings")
        silences = []
    else:
        silences = [(*span, "no data") for span in curve.silences(night.start_ms, until)]
    if until < night.end_ms:
        silences.append((until, night.end_ms, "not yet"))
    inches_per_hour = (WIDTH - LEFT - RIGHT) / time.hours
    for number, (start, end, words) in enumerate(silences):
        first, last = time.x_within(start), time.x_within(end)
        fill = _SILENT if words == "no data" else "white"
        box = axes.axvspan(first, last, facecolor=fill, edgecolor=_QUIET, linewidth=0.6, zorder=0.7)
        box.set_gid(f"silence-{number}")
        narrow = (last - first) * inches_per_hour < _NARROW_INCHES
        axes.text(
            (first + last) / 2,
            0.5,
            words,
            transform=axes.get_xaxis_transform(),
            rotation=90 if narrow else 0,
            rotation_mode="anchor",
            ha="center",
            va="center",
            fontsize=SMALL,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2},
        )


def _draw_readings(axes: Axes, curve: Curve, time: TimeScale) -> None:
    x, y = time.x(curve.at), curve.drawn
    for number, rows in enumerate(curve.segments()):
        (line,) = axes.plot(x[rows], y[rows], color=_CURVE, linewidth=1.1, zorder=3)
        line.set_gid(f"glucose-line-{number}")
    size = 3.2 if curve.at.size <= 400 else 1.8
    numbers = ~(curve.is_lo | curve.is_hi)
    _draw_points(axes, "glucose-points", (x[numbers], y[numbers]), ".", size * 1.6)
    _draw_points(axes, "glucose-lo", (x[curve.is_lo], y[curve.is_lo]), "v", 6)
    _draw_points(axes, "glucose-hi", (x[curve.is_hi], y[curve.is_hi]), "^", 6)
    _name_runs(axes, x, curve.is_lo, "LO", (curve.scale.floor, 6))
    _name_runs(axes, x, curve.is_hi, "HI", (curve.scale.top, -12))
    unused_at, unused = curve.unused
    _draw_points(axes, "glucose-unused", (time.x(unused_at), unused), "x", 3.5, colour=_QUIET)


def _draw_points(
    axes: Axes,
    gid: str,
    points: tuple[Float64, Float64],
    marker: str,
    size: float,
    *,
    colour: str = INK,
) -> None:
    if points[0].size:
        (drawn,) = axes.plot(*points, linestyle="none", marker=marker, markersize=size, color=colour, zorder=4)
        drawn.set_clip_on(False)
        drawn.set_gid(gid)


def _name_runs(axes: Axes, x: Float64, chosen: Bool, words: str, place: tuple[float, float]) -> None:
    """Write LO or HI beside the first arrow of each run of them."""
    height, points = place
    firsts = np.flatnonzero(chosen & ~np.concatenate(([False], chosen[:-1])))
    for row in firsts[:20]:
        axes.annotate(
            words, (x[row], height), (0, points), textcoords="offset points", ha="center", fontsize=SMALL, weight="bold"
        )


def draw_heart_rate(axes: Axes, heart: HeartRate, time: TimeScale) -> None:
    """Draw heart rate as a thin line, broken where it is unknown for more than 10 min."""
    prepare(axes, time)
    inside = (heart.at >= time.start_ms) & (heart.at < time.end_ms) & np.isfinite(heart.value)
    at, value = heart.at[inside], heart.value[inside]
    for number, rows in enumerate(stretches(parts(at, _HEART_GAP_MS))):
        (line,) = axes.plot(time.x(at[rows]), value[rows], color=_QUIET, linewidth=0.8)
        line.set_gid(f"heart-line-{number}")
    axes.set_ylim(*((min(40.0, value.min() - 2), max(110.0, value.max() + 2)) if value.size else (40.0, 110.0)))
    axes.locator_params(axis="y", nbins=3)
    axes.set_title("heart rate, /min", loc="left", fontsize=SMALL, pad=2, color=INK)


def draw_rows(
    axes: Axes, alerts: Sequence[AlertRow], doses: Sequence[DoseRow], time: TimeScale, lettering: Lettering
) -> None:
    """Draw alerts as hatched bars and doses as marks in their time, each below its words; heights in inches."""
    prepare(axes, time)
    heights = [ALERT_INCHES] * len(alerts) + [DOSE_INCHES] * len(doses)
    tops = np.cumsum([0.0, *heights])
    axes.set_ylim(tops[-1], 0)
    axes.set_yticks([])
    axes.spines["right"].set_visible(False)  # sentences continue into the margin
    for number, (row, top) in enumerate(zip(alerts, tops, strict=False)):
        _draw_alert(axes, number, row, float(top), time, lettering)
    for number, (dose, top) in enumerate(zip(doses, tops[len(alerts) :], strict=False)):
        _draw_dose(axes, number, dose, float(top), time, lettering)
    for one, other in pairwise(tops):
        axes.axhline(max(one, other), color="#c9ced4", linewidth=0.5)


def _write(axes: Axes, words: str, top: float, *, bold: bool = False) -> None:
    axes.text(
        0.012,
        top,
        words,
        transform=axes.get_yaxis_transform(),
        va="top",
        fontsize=SMALL,
        weight="bold" if bold else "normal",
        color=INK,
        parse_math=False,
    )


def _draw_alert(axes: Axes, number: int, row: AlertRow, top: float, time: TimeScale, lettering: Lettering) -> None:
    _write(axes, lettering.draw(row.words, COLUMNS - 10), top + 0.03, bold=True)
    _write(axes, lettering.draw(row.sentence, COLUMNS), top + 0.16)
    known = Severity(row.severity) if row.severity in set(Severity) else Severity.LOW
    first, last = time.x_within(row.begins), time.x_within(row.ends)
    # An alert of a single instant would be a bar without width.
    width = max(last - first, time.hours / 200)
    bar = Rectangle(
        (min(first, time.hours - width), top + 0.31),
        width,
        0.11,
        facecolor="white",
        edgecolor=COLOURS[known],
        hatch=HATCHES[known],
        linewidth=0.9,
        zorder=3,
    )
    bar.set_gid(f"alert-{number}-{known}")
    axes.add_patch(bar)
    if row.runs_on or row.ends > time.end_ms:
        _draw_points(axes, f"alert-{number}-runs-on", (np.array([last]), np.array([top + 0.365])), ">", 6)
    if row.begins < time.start_ms:
        _draw_points(axes, f"alert-{number}-from-before", (np.array([first]), np.array([top + 0.365])), "<", 6)


def _draw_dose(axes: Axes, number: int, row: DoseRow, top: float, time: TimeScale, lettering: Lettering) -> None:
    _write(axes, lettering.draw(f"{row.clock} {row.medication}", 40) + f": {row.fate}", top + 0.03)
    middle = top + 0.23
    if row.taken_at is not None:
        ends = [time.x_within(row.due_at), time.x_within(row.taken_at)]
        axes.plot(ends, [middle, middle], color=INK, linewidth=0.8, zorder=3)
    marker, filled = MARKERS.get(row.state, OTHER_MARKER)
    shown = row.due_at if time.shows(row.due_at) or row.taken_at is None else row.taken_at
    (mark,) = axes.plot(
        [time.x_within(shown)],
        [middle],
        marker=marker,
        markersize=6,
        color=INK,
        markerfacecolor=INK if filled else "white",
        linestyle="none",
        zorder=4,
    )
    mark.set_gid(f"dose-{number}")
    mark.set_clip_on(False)
    if row.taken_at is not None and row.taken_at != shown and time.shows(row.taken_at):
        _draw_points(
            axes, f"dose-{number}-taken", (np.array([time.x_within(row.taken_at)]), np.array([middle])), "|", 8
        )
