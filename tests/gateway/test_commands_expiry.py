"""How long the broker keeps a command that is of use for a moment only."""

from gateway.worker.commands import CLOCK_GOOD_FOR_MS, _Command

NOW = 1_763_770_000_000


def kept_s(kind: str, lasts_ms: int) -> int:
    """Return for how many seconds the broker is told to keep a command that is good for so long."""
    properties = _Command(1, "box", None, kind, {}, NOW + lasts_ms).properties(NOW)
    kept: int = vars(properties)["MessageExpiryInterval"]
    return kept


def test_a_command_for_less_than_a_second_is_not_kept_for_ever() -> None:
    """An interval of 0 is none at all to some brokers."""
    for kind in ("remind", "set_clock"):
        assert [kept_s(kind, lasts_ms) for lasts_ms in (1, 999, 5_999)] == [1, 1, 5], kind
    assert kept_s("set_clock", 3_600_000) == CLOCK_GOOD_FOR_MS // 1_000
    assert kept_s("remind", 3_600_000) == 3_600
