"""Parts of the events that may be scored apart: by archive, season, wetness and motion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from apps.nowcast.metrics import METRICS, Estimate, Metric, Weights, interval
from apps.nowcast.metrics.sums import Statistics
from apps.nowcast.verification.scope import Events
from data_tools.cli import UserError

_MOST = 1 << 27
"""Bytes of resampled sums that are kept for the next metric."""

KINDS = ("source", "season", "wetness", "motion")

_SEASONS = {
    "December to February": (12, 1, 2),
    "March to May": (3, 4, 5),
    "June to August": (6, 7, 8),
    "September to November": (9, 10, 11),
}


def parse_kinds(text: str) -> tuple[str, ...]:
    """Kinds of a line like `source,season`.

    Raises:
        UserError: one that is not known, or none.
    """
    kinds = tuple(part.strip() for part in text.split(",") if part.strip())
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"expected --strata among {', '.join(KINDS)}, got {kind!r}")
    if not kinds:
        raise UserError(f"expected --strata among {', '.join(KINDS)}, got nothing; leave it out")
    return kinds


def strata(kind: str, events: Events, statistics: Statistics) -> dict[str, np.ndarray]:
    """Name of each part that has events -> which events are in it, bool (events,).

    Args:
        kind: source; season, by the month the event begins in; wetness, thirds of the events by the share of pixels
            whose truth reaches the lowest threshold; motion, thirds by the pixels that rain moved between the last
            frames before the forecast, leaving out events in which nothing was seen to move.
        events: of the store.
        statistics: of any method: the truth is the same for all.
    """
    if kind == "source":
        parts: Mapping[str, np.ndarray] = {s: np.array(events.sources) == s for s in sorted(set(events.sources))}
    elif kind == "season":
        months = np.array([_month(time) for time in events.times])
        parts = {name: np.isin(months, wanted) for name, wanted in _SEASONS.items()}
    elif kind == "wetness":
        parts = _thirds(wet_shares(statistics), ("driest third", "middle third", "wettest third"))
    else:
        parts = _thirds(events.motion, ("slowest third", "middle third", "fastest third"))
    return {name: chosen for name, chosen in parts.items() if chosen.any()}


def estimates_of_parts(
    statistics: Statistics, parts: Sequence[tuple[np.ndarray, Weights]], metrics: Mapping[str, Metric] = METRICS
) -> list[dict[str, Estimate]]:
    """All metrics of each part with their intervals, as `metrics.estimates` of `Statistics.where`; each statistic is
    read once for all parts, so that it does not matter how their events lie in the store.

    Args:
        statistics: of one method.
        parts: (which events are in it, bool (events,), one at least; weights (resamples, events of the part)).
        metrics: by name.
    """
    found: list[dict[str, Estimate]] = [{} for _ in parts]
    sums = statistics.of_parts(parts)
    for name, metric in metrics.items():
        for part, (total, drawn) in zip(found, sums, strict=True):
            part[name] = interval(float(metric(total)), metric(drawn))
        if sum(drawn.nbytes for _, drawn in sums) > _MOST:
            sums = statistics.of_parts(parts)
    return found


def wet_shares(statistics: Statistics) -> np.ndarray:
    """Share of each event's pixels whose truth reaches the lowest threshold, (events,)."""
    counts = statistics.per_event("counts1")[:, :, 0].sum(axis=1)  # hits, misses, false alarms, correct negatives
    return (counts[:, 0] + counts[:, 1]) / np.maximum(counts.sum(axis=1), 1)


def _month(time: str) -> int:
    """Month of an ISO time; 0 where that is not a time."""
    try:
        month = np.datetime64(time, "M")
    except ValueError:
        return 0
    return 0 if np.isnat(month) else int(month.astype(int)) % 12 + 1


def _thirds(values: np.ndarray, names: tuple[str, str, str]) -> dict[str, np.ndarray]:
    """Three parts of the events in the order of their values, as even as they come; NaN are in none."""
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    parts = {}
    for name, numbers in zip(names, np.array_split(order, 3), strict=True):
        parts[name] = np.zeros(len(values), bool)
        parts[name][numbers] = True
    return parts
