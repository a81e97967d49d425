"""Packets that others collected, from real meters and straps and from tests of other parsers, read by our decoders."""

import json
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from devices.errors import PacketError
from devices.gatt.battery import decode_battery_level
from devices.gatt.blood_pressure import decode_blood_pressure_measurement, decode_intermediate_cuff_pressure
from devices.gatt.cgm import CgmMeasurement, decode_cgm_measurements
from devices.gatt.clock import decode_date_time
from devices.gatt.glucose import decode_glucose_measurement
from devices.gatt.heart_rate import decode_heart_rate_measurement
from devices.gatt.record_access import decode_request, decode_response
from devices.gatt.thermometer import decode_temperature_measurement
from devices.gatt.weight import decode_weight_measurement
from devices.vocabulary import Unit
from tests.recordings import RECORDINGS

FILE = RECORDINGS / "gatt_vectors" / "gatt_vectors.json"
WITH_CRC = {"0fe378001e0001020350006000ecac", "08000c100600586f"}
UNITS = {
    Unit.MM_HG: "mmHg", Unit.KPA: "kPa", Unit.CEL: "C", Unit.DEGF: "F", Unit.KG: "kg", Unit.LB_AV: "lb",
    Unit.MG_DL: "kg/L", Unit.MMOL_L: "mol/L",
}  # fmt: skip
Fields = dict[str, Any]


def plain(**fields: object) -> Fields:
    """As the file writes them: what is not there is left out."""
    return {name: written(value) for name, value in fields.items() if value is not None}


def written(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return UNITS[value] if isinstance(value, Unit) else value


def heart_rate(packet: bytes) -> Fields:
    says = decode_heart_rate_measurement(packet)
    contact = {None: "not_supported", True: "detected", False: "not_detected"}[says.contact]
    intervals = {
        "rr_1024": list(says.rr_intervals), "rr_ms": [round(interval, 3) for interval in says.rr_intervals_ms],
    }  # fmt: skip
    return plain(hr_bpm=says.rate, sensor_contact=contact, energy_kj=says.energy_expended) | (
        intervals if says.rr_intervals else {}
    )


def glucose(packet: bytes) -> Fields:
    says = decode_glucose_measurement(packet)
    value = says.concentration
    assert value is None or isinstance(value, Decimal)
    in_mmol = says.unit is Unit.MMOL_L
    return plain(
        sequence=says.sequence, base_time=says.base_time, time_offset_min=says.time_offset if packet[0] & 1 else None,
        concentration_raw=None if value is None else value.scaleb(-3 if in_mmol else -5), unit=says.unit,
        mg_dl=None if in_mmol else value, mmol_l=value if in_mmol else None,
        type=says.sample and says.sample.type, location=says.sample and says.sample.location,
        status=int(says.status) if packet[0] & 8 else None, context_follows=says.context_follows,
    )  # fmt: skip


def cgm(packet: bytes) -> Fields:
    checked = packet.hex() in WITH_CRC
    records, rest = [], packet
    for says in decode_cgm_measurements(packet, crc=checked):
        records.append(cgm_record(says, size=rest[0], flags=rest[1]))
        if checked:
            records[-1] |= {"crc": int.from_bytes(rest[rest[0] - 2 : rest[0]], "little"), "crc_ok": True}
        rest = rest[rest[0] :]
    return {"records": records}


def cgm_record(says: CgmMeasurement, size: int, flags: int) -> Fields:
    return plain(
        size=size, flags=flags, mg_dl=says.glucose, time_offset_min=says.time_offset,
        status=int(says.status) if flags & 0x80 else None, cal_temp=int(says.calibration) if flags & 0x40 else None,
        warning=int(says.warnings) if flags & 0x20 else None, trend_mg_dl_min=says.trend, quality_pct=says.quality,
    )  # fmt: skip


def record_access(packet: bytes) -> Fields:
    fields: Fields = {"opcode": packet[0], "operator": packet[1], "operand": packet[2:].hex()}
    if packet[0] < 5:
        request = decode_request(packet)
        return fields | {"opcode": int(request.op_code), "operator": int(request.operator)}
    response = decode_response(packet)
    return fields | plain(request_opcode=response.request, response_code=response.code)


def blood_pressure(packet: bytes) -> Fields:
    says = decode_blood_pressure_measurement(packet)
    return plain(systolic=says.systolic, diastolic=says.diastolic, map=says.mean_arterial, unit=says.unit)


def cuff_pressure(packet: bytes) -> Fields:
    says = decode_intermediate_cuff_pressure(packet)
    return plain(
        cuff_pressure=says.pressure, unit=says.unit, timestamp=says.timestamp, pulse_rate=says.pulse_rate,
        user_id=says.user_id, status=int(says.status) if packet[0] & 0x10 else None,
    )  # fmt: skip


def temperature(packet: bytes) -> Fields:
    says = decode_temperature_measurement(packet)
    return plain(temperature=says.temperature, unit=says.unit, timestamp=says.timestamp, type=says.type)


def weight(packet: bytes) -> Fields:
    says = decode_weight_measurement(packet)
    height = {"height": says.height_m, "height_unit": "m"} if says.height_m is not None else {}
    return plain(weight=says.weight, unit=says.unit, timestamp=says.timestamp, bmi=says.bmi, **height)


READERS: dict[str, Callable[[bytes], Fields]] = {
    "0x2A08": lambda packet: plain(timestamp=decode_date_time(packet)),
    "0x2A18": glucose,
    "0x2A19": lambda packet: plain(level=decode_battery_level(packet)),
    "0x2A1C": temperature,
    "0x2A35": blood_pressure,
    "0x2A36": cuff_pressure,
    "0x2A37": heart_rate,
    "0x2A52": record_access,
    "0x2A9D": weight,
    "0x2AA7": cgm,
}


@pytest.mark.skipif(not FILE.exists(), reason="the recordings are not here")
def test_every_recorded_packet_is_read_or_refused_as_it_should() -> None:
    vectors = json.loads(FILE.read_text(encoding="utf-8"))
    assert len(vectors) == 59
    assert {vector["characteristic"] for vector in vectors} == READERS.keys()
    wrong = []
    for vector in vectors:
        read, packet = READERS[vector["characteristic"]], bytes.fromhex(vector["hex"])
        try:
            says: Fields | None = read(packet)
        except PacketError:
            says = None
        if says != (vector["reference_decode"] if vector["valid"] else None):
            wrong.append((vector["characteristic"], vector["hex"], says, vector["reference_decode"]))
    assert not wrong
