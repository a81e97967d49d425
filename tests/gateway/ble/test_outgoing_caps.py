"""A message stays within its caps when another one has been begun beside it."""

from devices.vocabulary import Code, Flag, Unit
from gateway.ble.findings import Reading
from gateway.ble.outgoing import MAX_SAMPLES, MAX_SERIES, pack
from tests.gateway.ble.test_outgoing import MINUTE, NOW, glucose, items, receive


def test_a_series_does_not_grow_in_a_message_that_is_full_of_others() -> None:
    half = MAX_SAMPLES // 2 + 1
    first = [glucose(NOW + minute * MINUTE) for minute in range(half)]
    others = [
        Reading(Code.BODY_TEMPERATURE, Unit.CEL, NOW + hour * 61 * MINUTE, 37.0, Flag.ARTIFACT)
        for hour in range(MAX_SERIES)
    ]
    second = [glucose(NOW + minute * MINUTE) for minute in range(half, 2 * half)]
    bodies = pack([*first, *others, *second])
    samples = [sum(len(series.get("values", [0])) for series in items(body)) for body in bodies]
    assert len(bodies) == 2
    assert all(count <= MAX_SAMPLES for count in samples)
    batch = receive(bodies)
    assert sorted(batch.at.tolist()) == sorted(reading.at_ms for reading in [*first, *others, *second])
