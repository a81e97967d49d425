"""From messages to what may be stored: decoded, resolved to the wearer at measurement time, refusals with reasons."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from devices.batch import BatchBuilder, ObservationBatch
from devices.errors import PayloadError
from devices.runs import RRRun
from devices.status import Status, decode_status
from devices.vocabulary import DEVICE_ID, TOPIC_ROOT, Reason
from gateway.clinic.directory import WITHOUT_CONSENT, Directory
from gateway.ingest.source import Delivered
from gateway.store.rows import NOBODY, Rows, WornEvent, WornRun

_TOPIC = re.compile(rf"{TOPIC_ROOT}/(?P<device>[^/]+)/(?P<kind>telemetry|event|status)")


class Kind(Enum):
    """What a topic carries."""

    TELEMETRY = 0
    EVENT = 1
    STATUS = 2
    UNKNOWN = 3


Route = tuple[int, Kind]
"""The key of the device that a topic belongs to, and what it carries."""


@dataclass(frozen=True, slots=True)
class StatusReport:
    """What a device says of itself; `heard_now` unless the broker had kept it from some earlier time.

    `online_now`: it was heard now and said that it is online.
    """

    status: Status
    heard_now: bool
    online_now: bool

    def then(self, later: "StatusReport") -> "StatusReport":
        """Return two reports of one device as one: what the later one does not say stays."""
        first, second = self.status, later.status
        status = Status(
            online=second.online,
            battery=first.battery if second.battery is None else second.battery,
            firmware=first.firmware if second.firmware is None else second.firmware,
            clock=max((clock for clock in (first.clock, second.clock) if clock is not None), default=None),
        )
        return StatusReport(status, self.heard_now or later.heard_now, self.online_now or later.online_now)


@dataclass(frozen=True, slots=True)
class Refused:
    """Something for the quarantine.

    `series`: positions in the message, None for all of it; `samples`: positions in the one series, None for all of it.
    """

    message: int
    reason: Reason
    detail: str
    series: tuple[int, ...] | None = None
    device_id: str | None = None
    samples: tuple[int, ...] | None = None


@dataclass(slots=True)
class Intake:
    """What a batch that arrived at `now_ms` holds after decoding and resolving with `directory`.

    `head_message` to `sent_at` are columns of one length: the numbered messages of known devices.
    """

    directory: Directory
    now_ms: int
    rows: Rows
    runs: list[WornRun]
    events: list[WornEvent]
    statuses: dict[int, StatusReport]
    head_message: NDArray[np.int32]
    head_device: NDArray[np.int32]
    seq: NDArray[np.int64]
    oldest: NDArray[np.int64]
    sent_at: NDArray[np.int64]
    refused: list[Refused]
    missing: int


class Decoder:
    """Reads batches with one directory; its table of topics is bounded by the devices the directory knows."""

    def __init__(self, directory: Directory) -> None:
        """Read with this directory."""
        self.directory = directory
        self._routes: dict[str, Route] = {}

    def decode(self, messages: Sequence[Delivered], now_ms: int) -> Intake:
        """Decode and resolve a batch that arrived at `now_ms`. Nothing a peer sends makes it raise."""
        builder = IntakeBuilder(self, now_ms)
        builder.add(messages)
        return builder.finish()

    def routes(self) -> dict[str, Route]:
        """Return the topics met so far."""
        return self._routes

    def route(self, topic: str) -> Route:
        """Return the device behind a topic and what it carries; NOBODY and UNKNOWN for any other."""
        route = find_route(self.directory, topic)
        if route[0] != NOBODY:
            self._routes[topic] = route
        return route

    def resolve(self, batch: ObservationBatch, refused: list[Refused], now_ms: int) -> Intake:
        """Say who wore what when it was measured; refuse what nobody wore or consented to."""
        directory = self.directory
        headers = batch.headers
        rows = Rows(
            batch.message, batch.device, batch.device, batch.at, batch.code, batch.unit, batch.flags, batch.value
        )
        spoken_for = self._edge_messages(batch, refused)
        if spoken_for:
            rows.device = batch.device.copy()
            for message, key in spoken_for.items():
                rows.device[batch.message == message] = key
        rows.patient = directory.wearers(rows.device, rows.at, now_ms)
        nobody = rows.patient <= 0
        if nobody.any():
            self._refuse_rows(rows, batch.series, nobody, refused)
            rows = rows.take(~nobody)
        runs, events = self._wear(batch, spoken_for, refused, now_ms)
        refused += [
            Refused(r.message, r.reason, r.detail, r.series, self._sender(batch, r.message), r.samples)
            for r in batch.refusals
        ]
        numbered = (headers.seq >= 0) & (headers.device > 0)
        everything = bool(numbered.all())
        return Intake(
            directory=directory,
            now_ms=now_ms,
            rows=rows,
            runs=runs,
            events=events,
            statuses={},
            head_message=headers.message if everything else headers.message[numbered],
            head_device=headers.device if everything else headers.device[numbered],
            seq=headers.seq if everything else headers.seq[numbered],
            oldest=headers.oldest if everything else headers.oldest[numbered],
            sent_at=headers.sent_at if everything else headers.sent_at[numbered],
            refused=refused,
            missing=batch.missing,
        )

    def _edge_messages(self, batch: ObservationBatch, refused: list[Refused]) -> dict[int, int]:
        """Return, by message, the device an edge box speaks for; NOBODY (and a refusal) where it may not."""
        spoken_for: dict[int, int] = {}
        directory, headers = self.directory, batch.headers
        for row, name in enumerate(headers.device_named):
            if name is None:
                continue
            message, sender = int(headers.message[row]), int(headers.device[row])
            key = directory.spoken_for(sender, name)
            if key == sender:
                continue
            spoken_for[message] = key
            if key == NOBODY:
                detail = f"{directory.names[sender]} may not speak for {name!r}: the device is not bound to it"
                refused.append(Refused(message, Reason.UNKNOWN_DEVICE, detail, None, directory.names[sender]))
        return spoken_for

    def _wear(
        self, batch: ObservationBatch, spoken_for: dict[int, int], refused: list[Refused], now_ms: int
    ) -> tuple[list[WornRun], list[WornEvent]]:
        """Resolve the wearers of RR intervals, each by the beat that ends it, and of events."""
        runs: list[WornRun] = []
        events: list[WornEvent] = []
        unworn: set[tuple[int, int, int, int]] = set()
        for run in batch.rr:
            device = spoken_for.get(run.message, run.device)
            for part, patient in self._worn_parts(run, device, now_ms):
                if patient > 0:
                    runs.append(WornRun(part, device, patient))
                elif device != NOBODY:
                    unworn.add((run.message, run.series, device, patient))
        for message, series, device, patient in sorted(unworn):
            refused.append(self._unworn(message, (series,), device, patient))
        for event in batch.events:
            device = spoken_for.get(event.message, event.device)
            patient = self.directory.wearer_at(device, event.at, now_ms)
            if patient > 0:
                events.append(WornEvent(event, device, patient))
            elif device != NOBODY:
                refused.append(self._unworn(event.message, (event.position,), device, patient))
        return runs, events

    def _worn_parts(self, run: RRRun, device: int, now_ms: int) -> Iterator[tuple[RRRun, int]]:
        """Yield a run cut where the device changes hands or consent begins or ends, each part with its wearer."""
        directory = self.directory
        if not directory.changes_hands(device, int(run.at), int(run.ends_at)):
            yield run, directory.wearer_at(device, int(run.at), now_ms)
            return
        beats = run.beats()
        wearers = directory.wearers(np.full(len(beats), device, np.int32), beats.astype(np.int64), now_ms)
        edges = [0, *(np.flatnonzero(np.diff(wearers)) + 1).tolist(), len(beats)]
        for start, stop in pairwise(edges):
            yield run.part(start, stop, beats), int(wearers[start])

    def _refuse_rows(
        self,
        rows: Rows,
        series: NDArray[np.int16],
        nobody: NDArray[np.bool_],
        refused: list[Refused],
    ) -> None:
        """Refuse rows that nobody may own, once for each message, device and cause."""
        found = sorted(
            {
                (int(rows.message[i]), int(rows.device[i]), int(rows.patient[i]), int(series[i]))
                for i in np.flatnonzero(nobody)
                if rows.device[i] != NOBODY
            }
        )
        for (message, device, patient), group in groupby(found, key=lambda entry: entry[:3]):
            positions = tuple(position for *_, position in group)
            refused.append(self._unworn(message, positions, device, patient))

    def _unworn(self, message: int, series: tuple[int, ...], device: int, patient: int) -> Refused:
        name = self.directory.names[device]
        if patient == WITHOUT_CONSENT:
            detail = f"the wearer of {name} has not consented to the processing of these data"
            return Refused(message, Reason.NO_CONSENT, detail, series, name)
        return Refused(message, Reason.UNASSIGNED_DEVICE, f"nobody wore {name} at the time of these data", series, name)

    def _sender(self, batch: ObservationBatch, message: int) -> str:
        row = int(np.searchsorted(batch.headers.message, message))
        return self.directory.names[int(batch.headers.device[row])]

    def take_statuses(self, statuses: list[tuple[int, int, Delivered]], intake: Intake) -> None:
        """Decode what devices say of themselves into the intake."""
        for position, device, message in statuses:
            if not message.payload:
                continue  # a retained status was cleared: nothing is said
            try:
                status = decode_status(message.payload, message.content_type)
            except PayloadError as error:
                name = self.directory.names[device]
                intake.refused.append(Refused(position, error.reason, error.detail, None, name))
            else:
                now = not message.retain
                report = StatusReport(status, heard_now=now, online_now=now and status.online)
                known = intake.statuses.get(device)
                intake.statuses[device] = known.then(report) if known else report


class IntakeBuilder:
    """A batch that is being read, part by part: `add` decodes, `finish` checks and resolves the whole."""

    def __init__(self, decoder: Decoder, now_ms: int) -> None:
        """Read with the decoder's directory what arrived at `now_ms`."""
        self._decoder = decoder
        self._now_ms = now_ms
        self._builder = BatchBuilder()
        self._statuses: list[tuple[int, int, Delivered]] = []
        self._refused: list[Refused] = []
        self._count = 0

    def add(self, messages: Sequence[Delivered]) -> None:
        """Decode the next messages of the batch."""
        routes, route_of, now_ms = self._decoder.routes(), self._decoder.route, self._now_ms
        add_telemetry, add_event = self._builder.add_telemetry, self._builder.add_event
        telemetry, event, status = Kind.TELEMETRY, Kind.EVENT, Kind.STATUS
        for position, message in enumerate(messages, self._count):
            topic = message.topic
            device, kind = routes.get(topic) or route_of(topic)
            if kind is telemetry:
                add_telemetry(position, device, message.payload, message.content_type, now_ms)
            elif kind is event:
                add_event(position, device, message.payload, message.content_type, now_ms)
            elif kind is status:
                self._statuses.append((position, device, message))
            else:
                self._refused.append(_without_device(position, topic))
        self._count += len(messages)

    def finish(self) -> Intake:
        """Check and resolve what was decoded."""
        intake = self._decoder.resolve(self._builder.finish(), self._refused, self._now_ms)
        self._decoder.take_statuses(self._statuses, intake)
        return intake


def find_route(directory: Directory, topic: str) -> Route:
    """Return the device behind a topic and what it carries; NOBODY and UNKNOWN for any other."""
    match = _TOPIC.fullmatch(topic)
    key = directory.keys.get(match["device"]) if match is not None else None
    if match is None or key is None:
        return NOBODY, Kind.UNKNOWN
    return key, Kind[match["kind"].upper()]


def _without_device(position: int, topic: str) -> Refused:
    match = _TOPIC.fullmatch(topic)
    if match is None or DEVICE_ID.match(match["device"]) is None:
        return Refused(position, Reason.UNKNOWN_DEVICE, "the topic names no device", None, None)
    return Refused(position, Reason.UNKNOWN_DEVICE, f"no device {match['device']} is known", None, match["device"])
