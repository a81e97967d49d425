"""Whose a refused message is: who may see it in the quarantine, and whether its bytes may be kept.

A message is kept with all its bytes, so every instant in it counts, also those of its good parts. Who wears the device
now says nothing: data come late, and devices are handed on.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from devices.message_instants import Instants, instants_of
from devices.vocabulary import DeviceModel
from gateway.clinic.directory import Directory
from gateway.ingest.decoding import Kind, find_route
from gateway.ingest.source import Delivered
from gateway.store.rows import NOBODY


@dataclass(frozen=True, slots=True)
class Whose:
    """`patient`: the one to file a refused message under; None: it is the administrators' to see.

    `keep_bytes`: everybody whose data it may hold consented when it was measured, and consents now.
    """

    patient: int | None
    keep_bytes: bool


NOT_TO_BE_KEPT: Final = Whose(None, keep_bytes=False)


def whose(directory: Directory, message: Delivered, now_ms: int) -> Whose:
    """Return whose a refused message is that arrived at `now_ms`. Nothing a peer sends makes it raise."""
    sender, kind = find_route(directory, message.topic)
    if sender == NOBODY:
        return Whose(None, keep_bytes=True)
    if kind is Kind.STATUS:
        return _of_any_wearer(directory, sender, now_ms)
    told = instants_of(message.payload, message.content_type)
    if told is None:
        # An edge box may have read it from any device, also from one that is not bound to it any more.
        is_edge = directory.models[sender] == DeviceModel.EDGE
        return NOT_TO_BE_KEPT if is_edge else _of_any_wearer(directory, sender, now_ms)
    if told.device is None:
        return _of_wearers_then(directory, sender, told, now_ms)
    if device := directory.spoken_for(sender, told.device):
        return _of_wearers_then(directory, device, told, now_ms)
    # The sender may not speak for the device: it may be in error about the device, or have lost it to another box.
    named = directory.keys.get(told.device, NOBODY)
    both = [_of_wearers_then(directory, device, told, now_ms) for device in (sender, named)]
    return Whose(None, keep_bytes=all(each.keep_bytes for each in both))


def _of_wearers_then(directory: Directory, device: int, told: Instants, now_ms: int) -> Whose:
    """Return whose it is by who wore the device at the instants, and by all its wearers where these do not tell all."""
    at = told.at
    patients: set[int] = set()
    consented, worn = True, 0
    for interval in directory.assignments.get(device, ()):
        start, stop = np.searchsorted(at, (interval.since_ms, interval.until_ms)).tolist()
        if start < stop:
            patients.add(interval.patient_id)
            consented = consented and directory.has_consented(interval.patient_id, np.append(at[start:stop], now_ms))
            worn += stop - start
    if not told.complete or not len(at):
        anybody = _of_any_wearer(directory, device, now_ms)
        return Whose(anybody.patient, keep_bytes=consented and anybody.keep_bytes)
    return Whose(_only(patients) if worn == len(at) else None, keep_bytes=consented)


def _of_any_wearer(directory: Directory, device: int, now_ms: int) -> Whose:
    """Return whose it is when nothing says when it was measured: any of the device's wearers may be meant."""
    patients = {interval.patient_id for interval in directory.assignments.get(device, ())}
    now = np.array([now_ms], np.int64)
    return Whose(_only(patients), keep_bytes=all(directory.has_consented(patient, now) for patient in patients))


def _only(patients: set[int]) -> int | None:
    return next(iter(patients)) if len(patients) == 1 else None
