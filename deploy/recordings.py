"""Recorded readings from a CSV file: `time,code,value,unit[,flags][,patient]`, for back-tests and replays."""

from __future__ import annotations

import csv
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import nan
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from devices.vocabulary import CODE_BY_WIRE, CODES, FLAG_BY_WIRE, UNIT_BY_UCUM, Code, Flag, Unit
from streaming.zones import ZoneHistory

NEEDED: Final = ("time", "code", "value", "unit")
MAX_ROWS: Final = 20_000_000
"""A recording is held in memory, some 40 bytes a row. More rows than this are not a recording but a mistake."""
MAX_PATIENTS: Final = 10_000
YEARS: Final = range(1970, 2100)
SKIP_EMPTY: Final = "empty"
SKIP_IMPLAUSIBLE: Final = "implausible"
SKIP_REPEATED: Final = "repeated time stamp"
_FLAG_SEPARATORS: Final = re.compile(r"[\s,;|]+")
_SENTINELS: Final = Flag.BELOW_RANGE | Flag.ABOVE_RANGE


class RecordingError(Exception):
    """The file is not a recording; says which line and why."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedSeries:
    """Readings of one patient and code in order of time, one per instant, as a struct of arrays of one length.

    `at` int64 ms; `value` float64 as recorded (NaN: LO or HI without a number); `unit` and `flags` int16.
    """

    patient: str
    code: Code
    at: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    unit: npt.NDArray[np.int16]
    flags: npt.NDArray[np.int16]

    def __len__(self) -> int:
        """Return the number of readings."""
        return self.at.size


@dataclass(frozen=True, slots=True)
class Recording:
    """A whole file: a series for each patient and code, and the number of rows skipped for each reason."""

    series: tuple[RecordedSeries, ...]
    skipped: Mapping[str, int]


@dataclass(slots=True)
class _Columns:
    at: array[int] = field(default_factory=lambda: array("q"))
    value: array[float] = field(default_factory=lambda: array("d"))
    unit: array[int] = field(default_factory=lambda: array("h"))
    flags: array[int] = field(default_factory=lambda: array("h"))


def read_recording(path: Path, zone: ZoneHistory, *, patient: str | None = None, max_rows: int = MAX_ROWS) -> Recording:
    """Read a recording; times without offset are the wall clock of `zone` (of a repeated hour the first).

    Rows without a patient belong to `patient`, by default named after the file. Empty and implausible values are
    skipped and counted; so are, within a patient and code, all but the first line of equal time stamps.

    Raises:
        RecordingError: the file cannot be read, lacks a column, or a line has no time, code, unit or flag that is known.
    """
    reader = _Reader(zone, patient or path.stem, max_rows)
    for row, where in csv_lines(path, NEEDED):
        reader.take(row, where)
    return reader.finish()


def csv_lines(path: Path, needed: Sequence[str]) -> Iterator[tuple[Mapping[str, str | None], str]]:
    """Yield each row of a CSV with a header, and its location for error messages.

    Raises:
        RecordingError: the file cannot be read, is not a CSV in UTF-8, or lacks one of the `needed` columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            missing = [name for name in needed if name not in (rows.fieldnames or ())]
            if missing:
                raise RecordingError(f"{path}: the header lacks {', '.join(missing)}; it must be {','.join(needed)}")
            for row in rows:
                yield row, f"{path}, line {rows.line_num}"
    except UnicodeDecodeError as error:
        raise RecordingError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise RecordingError(f"{path}: not CSV ({error})") from error
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}") from error


def instant(text: str, zone: ZoneHistory, where: str) -> int:
    """Return the ms of a time; one without offset is the wall clock of `zone`, of a repeated hour the first.

    Raises:
        RecordingError: it is not a time, or one at which nothing can have been recorded.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise RecordingError(f"{where}: {text!r} is not a time such as 2026-11-22T03:10:00+01:00") from error
    if time.year not in YEARS:
        raise RecordingError(f"{where}: nothing was recorded in the year {time.year}")
    return zone.instant(time) if time.tzinfo is None else round(time.timestamp() * 1000)


class _Reader:
    """Reads rows and groups them by patient and code."""

    def __init__(self, zone: ZoneHistory, patient: str, max_rows: int) -> None:
        self._zone = zone
        self._patient = patient
        self._rows_left = max_rows
        self._columns: dict[tuple[str, Code], _Columns] = {}
        self._patients: set[str] = set()
        self._skipped: Counter[str] = Counter()

    def take(self, row: Mapping[str, str | None], where: str) -> None:
        """Take one row, or count why it was skipped."""
        self._rows_left -= 1
        if self._rows_left < 0:
            raise RecordingError(f"{where}: more rows than a recording may have")
        cell = {name: (row.get(name) or "").strip() for name in (*NEEDED, "flags", "patient")}
        code = CODE_BY_WIRE.get(cell["code"])
        if code is None:
            raise RecordingError(f"{where}: unknown code {cell['code']!r}")
        unit = UNIT_BY_UCUM.get(cell["unit"])
        if unit is None or unit not in CODES[code].units:
            accepted = ", ".join(one.ucum for one in CODES[code].units)
            raise RecordingError(f"{where}: {code.wire} is not measured in {cell['unit']!r} but in {accepted}")
        flags = _flags(cell["flags"], where)
        at_ms = instant(cell["time"], self._zone, where)
        value = self._value(cell["value"], code, unit, flags)
        if value is not None:
            self._store(cell["patient"] or self._patient, code, (at_ms, value, unit, flags), where)

    def finish(self) -> Recording:
        """Return what was read."""
        series = tuple(self._series(patient, code, columns) for (patient, code), columns in self._columns.items())
        return Recording(series, dict(self._skipped))

    def _value(self, text: str, code: Code, unit: Unit, flags: Flag) -> float | None:
        """Return the number, NaN for LO and HI without a plausible one, None (counted) if the row is skipped."""
        limits = CODES[code].units[unit]
        value = _number(text)
        if limits.minimum <= value <= limits.maximum:
            return value
        if flags & _SENTINELS:
            return nan
        self._skipped[SKIP_IMPLAUSIBLE if text else SKIP_EMPTY] += 1
        return None

    def _store(self, patient: str, code: Code, reading: tuple[int, float, Unit, Flag], where: str) -> None:
        columns = self._columns.get((patient, code))
        if columns is None:
            self._patients.add(patient)
            if len(self._patients) > MAX_PATIENTS:
                raise RecordingError(f"{where}: more than {MAX_PATIENTS} patients")
            columns = self._columns[patient, code] = _Columns()
        at_ms, value, unit, flags = reading
        columns.at.append(at_ms)
        columns.value.append(value)
        columns.unit.append(unit)
        columns.flags.append(flags)

    def _series(self, patient: str, code: Code, columns: _Columns) -> RecordedSeries:
        """Return one series in order of time; of equal time stamps the first line."""
        at, first = np.unique(np.array(columns.at, dtype=np.int64), return_index=True)
        if at.size < len(columns.at):
            self._skipped[SKIP_REPEATED] += len(columns.at) - at.size
        return RecordedSeries(
            patient=patient,
            code=code,
            at=at,
            value=np.array(columns.value, dtype=np.float64)[first],
            unit=np.array(columns.unit, dtype=np.int16)[first],
            flags=np.array(columns.flags, dtype=np.int16)[first],
        )


def _number(text: str) -> float:
    """Return the number, NaN if it is not one."""
    try:
        return float(text)
    except ValueError:
        return nan


def _flags(text: str, where: str) -> Flag:
    flags = Flag(0)
    for name in _names(text):
        if name not in FLAG_BY_WIRE:
            raise RecordingError(f"{where}: unknown flag {name!r}")
        flags |= FLAG_BY_WIRE[name]
    return flags


def _names(text: str) -> Iterator[str]:
    return (name for name in _FLAG_SEPARATORS.split(text) if name)
