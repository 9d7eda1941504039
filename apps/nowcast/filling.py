"""How much of a method's forecasts is not its own: pixels it said nothing about, windows it could not do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from apps.nowcast.baselines import Members
from apps.nowcast.metrics import Statistics
from apps.nowcast.table import Json

FILLED, STAND_IN = "filled", "stand_in"
"""Statistics (event, lead) that methods without a network may have beside the others: pixels of all members that were
filled, and whether a simpler method stood in."""


def beside(made: Members) -> dict[str, np.ndarray]:
    """The statistics of a window."""
    return {FILLED: made.filled, STAND_IN: np.full(len(made.filled), bool(made.stand_in), np.int64)}


def fillings(methods: Iterable[tuple[str, int, Statistics]], size: Sequence[int]) -> list[dict[str, Json]]:
    """Of those (label, members, statistics) that have these statistics: label, `filled_share` of the forecast pixels
    that hold what was last observed, `stand_in_events`, and `events`. `size` is that of a frame."""
    told: list[dict[str, Json]] = []
    for label, members, statistics in methods:
        if FILLED not in statistics.arrays:
            continue
        filled, stand_in = (np.asarray(statistics.total()[name]) for name in (FILLED, STAND_IN))
        events = len(statistics.events)
        share = float(filled.sum() / (events * members * len(filled) * np.prod(size)))
        told.append({"method": label, "filled_share": share, "stand_in_events": int(stand_in[0]), "events": events})
    return told


def filling_lines(told: Sequence[Mapping[str, Json]]) -> Iterator[str]:
    """The same for people, a line each."""
    for row in cast("Sequence[Mapping[str, Any]]", told):
        line = (
            f"{row['method']}: {row['filled_share']:.1%} of its pixels come from beyond the frame and keep their value"
        )
        if row["stand_in_events"]:
            line += f"; in {row['stand_in_events']} of {row['events']} events a simpler method stood in"
        yield line
