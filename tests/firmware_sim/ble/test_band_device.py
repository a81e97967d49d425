"""A simulated wristband: rate and beats as they were, and as they would be over MQTT."""

from itertools import pairwise

from devices.gatt.heart_rate import decode_heart_rate_measurement
from devices.vocabulary import Code, DeviceModel, Flag
from firmware_sim.ble.backend import Central
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.ble.wristband import WristbandPeripheral
from firmware_sim.physiology.noise import MINUTE_MS
from firmware_sim.wristband import Wristband
from tests.firmware_sim.ble.listener import Wall, listening, settle
from tests.firmware_sim.ble.plans import BODY, measured, mqtt_series, plan_of

MIDNIGHT = 1_795_363_200_000
"""2026-11-23T00:00+08:00."""


async def test_a_band_tells_rate_and_every_beat_once_a_second(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    band = WristbandPeripheral(plan_of(DeviceModel.WRISTBAND), wall)
    await band.start(radio)
    async with listening(central, band) as listener:
        heard = await listener.listen("2a37")
        for _ in range(600):
            wall.at_ms += 500
            await band.tick()
        await settle()
        assert await listener.read("2a38") == b"\x02"
        assert await listener.read("2a19") == bytes([Wristband((1, 0), BODY).battery(wall())])
    packets = [decode_heart_rate_measurement(packet) for packet in heard]
    assert len(packets) == 300
    assert all(packet.contact for packet in packets)
    assert [packet.rate for packet in packets] == [one.value for one in measured(band, Code.HEART_RATE)]
    intervals = [rr for packet in packets for rr in packet.rr_intervals]
    assert intervals == [beat.rr_1024 for beat in band.beats]
    for before, beat in pairwise(band.beats):
        assert abs(beat.at_ms - before.at_ms - beat.rr_1024 / 1.024) <= 1
    assert 295_000 < sum(intervals) / 1.024 < 305_000


async def test_a_band_has_the_rates_and_nightly_intervals_it_would_send_over_mqtt(
    radio: VirtualRadio, central: Central
) -> None:
    wall = Wall(MIDNIGHT)
    start = wall()
    band = WristbandPeripheral(plan_of(DeviceModel.WRISTBAND), wall)
    await band.start(radio)
    async with listening(central, band) as listener:
        await listener.listen("2a37")
        for _ in range(26 * 60):
            wall.at_ms += 1_000
            await band.tick()
    drafts = Wristband((1, 0), BODY).measure(start, wall(), live=True)
    (rates,) = mqtt_series(drafts, Code.HEART_RATE)
    told = [one.value for one in measured(band, Code.HEART_RATE) if (one.at_ms - start) % MINUTE_MS == 30_000]
    assert told == rates
    (sent,) = mqtt_series(drafts, Code.RR_INTERVAL)
    intervals = [one for one in sent if isinstance(one, int)]
    beats = [beat.rr_1024 / 1.024 for beat in band.beats]
    aligned = max(
        sum(abs(ours - theirs) <= 1 for ours, theirs in zip(beats[shift:], intervals, strict=False))
        for shift in range(len(beats) - len(intervals))
    )
    assert aligned == len(intervals)


async def test_a_band_that_is_taken_off_says_so(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    band = WristbandPeripheral(plan_of(DeviceModel.WRISTBAND), wall)
    band.off_body = True
    await band.start(radio)
    async with listening(central, band) as listener:
        heard = await listener.listen("2a37")
        wall.at_ms += 1_000
        await band.tick()
        await settle()
    assert [packet.hex() for packet in heard] == ["0400"]
    assert [(one.value, one.flags) for one in measured(band, Code.HEART_RATE)] == [(None, Flag.OFF_BODY)]


async def test_a_band_tells_its_charge_when_it_has_changed(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    band = WristbandPeripheral(plan_of(DeviceModel.WRISTBAND), wall)
    await band.start(radio)
    async with listening(central, band) as listener:
        await listener.listen("2a37")
        levels = await listener.listen("2a19")
        for _ in range(3 * 60):
            wall.at_ms += MINUTE_MS
            await band.tick()
        await settle()
    told = [level[0] for level in levels]
    assert told == sorted(set(told), reverse=True)
    assert len(told) in {2, 3}
    assert told[-1] == Wristband((1, 0), BODY).battery(wall())
