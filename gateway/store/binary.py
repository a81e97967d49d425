"""Whole numpy columns as PostgreSQL's binary COPY rows and binary array parameters."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.abc import DumperKey
from psycopg.adapt import Dumper, PyFormat
from psycopg.pq import Format

# PostgreSQL documentation, COPY, "Binary Format": signature, flags field, header extension length.
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
NULL = -1
POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01T00:00Z

_FIXED = [
    ("fields", ">i2"),
    ("at_len", ">i4"), ("at", ">i8"),
    ("received_len", ">i4"), ("received", ">i8"),
    ("device_len", ">i4"), ("device", ">i4"),
    ("patient_len", ">i4"), ("patient", ">i4"),
    ("code_len", ">i4"), ("code", ">i2"),
    ("unit_len", ">i4"), ("unit", ">i2"),
    ("flags_len", ">i4"), ("flags", ">i2"),
    ("value_len", ">i4"),
]  # fmt: skip
_WITHOUT_VALUE = np.dtype(_FIXED)
_WITH_VALUE = np.dtype([*_FIXED, ("value", ">f8")])
_LENGTHS = {
    "fields": 8, "at_len": 8, "received_len": 8, "device_len": 4, "patient_len": 4, "code_len": 2, "unit_len": 2,
    "flags_len": 2,
}  # fmt: skip

_RR_HEAD = np.dtype([
    ("fields", ">i2"),
    ("at_len", ">i4"), ("at", ">i8"),
    ("ends_len", ">i4"), ("ends", ">i8"),
    ("received_len", ">i4"), ("received", ">i8"),
    ("device_len", ">i4"), ("device", ">i4"),
    ("patient_len", ">i4"), ("patient", ">i4"),
    ("unit_len", ">i4"), ("unit", ">i2"),
    ("flags_len", ">i4"), ("flags", ">i2"),
    ("array_len", ">i4"), ("dimensions", ">i4"), ("has_null", ">i4"), ("element", ">u4"), ("count", ">i4"),
    ("lower_bound", ">i4"),
])  # fmt: skip
_RR_ELEMENT = np.dtype([("length", ">i4"), ("value", ">f8")])
_RR_ARRAY_HEADER = 20
_FLOAT8_OID = 701

_READING = np.dtype([
    ("fields", ">i2"),
    ("patient_len", ">i4"), ("patient", ">i4"),
    ("at_len", ">i4"), ("at", ">i8"),
    ("value_len", ">i4"), ("value", ">f8"),
    ("unit_len", ">i4"), ("unit", ">i2"),
    ("flags_len", ">i4"), ("flags", ">i2"),
])  # fmt: skip

Integers = NDArray[np.signedinteger[Any]]


def microseconds(ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return timestamptz's own count (microseconds since 2000) of ms since the Unix epoch."""
    return (ms - POSTGRES_EPOCH_MS) * 1000


def observation_rows(
    at: NDArray[np.int64],
    received_ms: int,
    device: NDArray[np.int32],
    patient: NDArray[np.int32],
    code: NDArray[np.int16],
    unit: NDArray[np.int16],
    flags: NDArray[np.int16],
    value: NDArray[np.float64],
) -> bytes:
    """Return a whole COPY stream for `observation` (columns in the table's order); NaN becomes null."""
    columns: dict[str, Integers] = {
        "at": microseconds(at),
        "device": device,
        "patient": patient,
        "code": code,
        "unit": unit,
        "flags": flags,
    }
    received = (received_ms - POSTGRES_EPOCH_MS) * 1000
    missing = np.isnan(value)
    if not missing.any():
        return b"".join((HEADER, _table(_WITH_VALUE, columns, received, value).tobytes(), TRAILER))
    there = ~missing
    with_value = _table(_WITH_VALUE, {name: column[there] for name, column in columns.items()}, received, value[there])
    without = _table(_WITHOUT_VALUE, {name: column[missing] for name, column in columns.items()}, received, None)
    return b"".join((HEADER, with_value.tobytes(), without.tobytes(), TRAILER))


def _table(
    dtype: np.dtype[np.void], columns: dict[str, Integers], received: int, value: NDArray[np.float64] | None
) -> NDArray[np.void]:
    rows = np.empty(len(columns["at"]), dtype)
    for name, length in _LENGTHS.items():
        rows[name] = length
    for name, column in columns.items():
        rows[name] = column
    rows["received"] = received
    if value is None:
        rows["value_len"] = NULL
    else:
        rows["value_len"], rows["value"] = 8, value
    return rows


def rr_rows(runs: Iterable[tuple[float, float, int, int, int, int, NDArray[np.float64]]], received_ms: int) -> bytes:
    """Return a whole COPY stream for `rr_series`.

    Each run: (at ms, ends_at ms, device, patient, unit, flags, intervals as sent).
    """
    parts = [HEADER]
    for at, ends_at, device, patient, unit, flags, intervals in runs:
        head = np.zeros(1, _RR_HEAD)
        head["fields"] = 8
        head["at_len"] = head["ends_len"] = head["received_len"] = 8
        head["device_len"] = head["patient_len"] = 4
        head["unit_len"] = head["flags_len"] = 2
        head["at"] = round((at - POSTGRES_EPOCH_MS) * 1000)
        head["ends"] = round((ends_at - POSTGRES_EPOCH_MS) * 1000)
        head["received"] = (received_ms - POSTGRES_EPOCH_MS) * 1000
        head["device"], head["patient"], head["unit"], head["flags"] = device, patient, unit, flags
        head["array_len"] = _RR_ARRAY_HEADER + _RR_ELEMENT.itemsize * len(intervals)
        head["dimensions"], head["element"], head["count"], head["lower_bound"] = 1, _FLOAT8_OID, len(intervals), 1
        elements = np.empty(len(intervals), _RR_ELEMENT)
        elements["length"], elements["value"] = 8, intervals
        parts += [head.tobytes(), elements.tobytes()]
    parts.append(TRAILER)
    return b"".join(parts)


@dataclass(frozen=True, slots=True, eq=False)
class ReadingRows:
    """Readings of one code of many patients as columns of one length: ms since the epoch, values as sent (NaN: none)."""

    patient: NDArray[np.int32]
    at: NDArray[np.int64]
    value: NDArray[np.float64]
    unit: NDArray[np.int16]
    flags: NDArray[np.int16]


def parse_readings(stream: bytes) -> ReadingRows:
    """Return the rows (patient, at, value, unit, flags; none of them null) of a whole COPY stream.

    Raises `ValueError` for a stream that is cut off or has other columns.
    """
    body = stream[len(HEADER) : -len(TRAILER)]
    if stream[: len(HEADER)] != HEADER or stream[-len(TRAILER) :] != TRAILER or len(body) % _READING.itemsize:
        raise ValueError("not a whole COPY stream of readings")
    table = np.frombuffer(body, _READING)
    if not bool((table["fields"] == 5).all() and (table["value_len"] == 8).all()):
        raise ValueError("not a COPY stream of readings")
    return ReadingRows(
        patient=table["patient"].astype(np.int32),
        at=table["at"].astype(np.int64) // 1000 + POSTGRES_EPOCH_MS,
        value=table["value"].astype(np.float64),
        unit=table["unit"].astype(np.int16),
        flags=table["flags"].astype(np.int16),
    )


class ArrayDumper(Dumper):
    """Sends a one-dimensional numpy array as a PostgreSQL array, without a Python object per element.

    psycopg's own list adaptation takes a microsecond per element, a third of a message's whole budget.
    """

    format = Format.BINARY

    # PostgreSQL documentation, "System Catalogs", pg_type: (element, array, width) by numpy type.
    _TYPES: Mapping[type, tuple[int, int, str]] = {
        np.int16: (21, 1005, ">i2"),
        np.int32: (23, 1007, ">i4"),
        np.int64: (20, 1016, ">i8"),
        np.float64: (701, 1022, ">f8"),
        np.bool_: (16, 1000, ">i1"),
    }

    def get_key(self, obj: NDArray[Any], format: PyFormat) -> DumperKey:  # noqa: A002, ARG002 - psycopg's name
        """Distinguish arrays of different element types."""
        return (self.cls, obj.dtype.type)

    def upgrade(self, obj: NDArray[Any], format: PyFormat) -> "ArrayDumper":  # noqa: A002, ARG002 - psycopg's name
        """Return a dumper for the array's type."""
        dumper = ArrayDumper(self.cls)
        dumper.oid = self._TYPES[obj.dtype.type][1]
        return dumper

    def dump(self, obj: NDArray[Any]) -> bytes:
        """Return the array: one dimension, no nulls (NaN stays NaN)."""
        element, _, width = self._TYPES[obj.dtype.type]
        if not len(obj):
            return np.array([0, 0, element], ">i4").tobytes()
        body = np.empty(len(obj), [("length", ">i4"), ("value", width)])
        body["length"] = np.dtype(width).itemsize
        body["value"] = obj
        return np.array([1, 0, element, len(obj), 1], ">i4").tobytes() + body.tobytes()


def register_arrays(connection: psycopg.AsyncConnection[Any]) -> None:
    """Let a connection take numpy arrays as parameters."""
    connection.adapters.register_dumper(np.ndarray, ArrayDumper)
