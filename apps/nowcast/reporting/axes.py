"""Axes of a chart: from values to places, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

MINUS = "\N{MINUS SIGN}"
_SMALLEST = 1e-100  # of a logarithmic axis


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, drawn from `start` to `end`.

    Attributes:
        low, high: ends, low < high; above 0 where `logarithmic`.
        start, end: where they are drawn.
        logarithmic: whether equal ratios have equal lengths.
        ticks: (value, label) within the ends.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool
    ticks: tuple[tuple[float, str], ...]

    @classmethod
    def of(
        cls,
        values: np.ndarray,
        start: float,
        end: float,
        *,
        logarithmic: bool = False,
        ticks: Sequence[tuple[float, str]] | None = None,
        margin: float = 0.04,
    ) -> Axis:
        """An axis with room for all finite values (above 0 where logarithmic); from 0 to 1, or 1 to 10, without any."""
        values = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
        low, high = (
            (float(values.min()), float(values.max())) if values.size else (1.0, 10.0) if logarithmic else (0, 1)
        )
        if logarithmic:
            low, high = math.log10(max(low, _SMALLEST)), math.log10(max(high, _SMALLEST))
        if high - low < 1e-9 * max(1.0, abs(low), abs(high)):
            room = 0.5 if logarithmic else 0.5 * max(abs(low), 0.1)
            low, high = low - room, high + room
        low, high = low - margin * (high - low), high + margin * (high - low)
        if logarithmic:
            low, high = 10.0**low, 10.0**high
        if ticks is None:
            ticks = _decades(low, high) if logarithmic else _round(low, high)
        inside = tuple((value, label) for value, label in ticks if low <= value <= high)
        return cls(low, high, start, end, logarithmic, inside)

    def place(self, value: float) -> float:
        """Where a finite value is drawn; beyond the ends, at the nearer one."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def number(value: float, digits: int = 3) -> str:
    """A number of so many significant digits for people; an en dash for none."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if -3 <= size < 6:
        shown = f"{value:.{max(0, digits - 1 - size)}f}"
        shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        shown = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return shown.replace("-", MINUS)


def _round(low: float, high: float) -> list[tuple[float, str]]:
    values = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [(float(value), number(float(round(value, 12)))) for value in values]


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    if high < 8 * low:
        return _round(low, high)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, (last - first) // 5)
    steps = (1,) if last - first > 3 else (1, 3) if last - first > 2 else (1, 2, 5)
    values = [step * 10.0**power for power in range(first, last + 1, every) for step in steps]
    return [(value, number(value)) for value in values]
