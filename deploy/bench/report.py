"""The report of a benchmark: one line each, as a table for people or as JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Line:
    """A figure beside its reference, both in `unit`; `more` has further facts of the same measurement."""

    benchmark: str
    figure: float
    unit: str
    reference: float
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Return figure ÷ reference."""
        return self.figure / self.reference

    def json(self) -> str:
        """Return one JSON object on one line."""
        fields = {
            "benchmark": self.benchmark,
            "figure": _short(self.figure),
            "unit": self.unit,
            "reference": _short(self.reference),
            "ratio": _short(self.ratio),
            **{name: _short(value) for name, value in self.more.items()},
        }
        return msgspec.json.encode(fields).decode()


def table(lines: Sequence[Line]) -> Table:
    """Return the lines as a table for people."""
    found = Table("benchmark", "figure", "reference", "ratio", "more")
    for line in lines:
        more = ", ".join(f"{name} {_short(value)}" for name, value in line.more.items() if not isinstance(value, list))
        figures = (f"{_short(value)} {line.unit}" for value in (line.figure, line.reference))
        found.add_row(line.benchmark, *figures, f"{line.ratio:.3g}", more)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value with at least `share` of all values at or below it."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -int(-share * len(ranked) // 1) - 1))]


def _short(value: Any) -> Any:
    """Return numbers with four significant digits: more would be noise."""
    if isinstance(value, float):
        rounded = float(f"{value:.4g}")
        return int(rounded) if abs(rounded) >= 1_000 else rounded
    if isinstance(value, list):
        return [_short(item) for item in value]
    return value
