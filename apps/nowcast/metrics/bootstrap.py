"""Percentile intervals over events (never over pixels: pixels of one storm are not independent).

Resampling events with replacement is weighting each by how often it was drawn. A metric is a function of sums, so a
resample is one row of a matrix product and the metric is evaluated on all resamples at once, as a ratio of sums each
time. The same weights for two methods make their comparison paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from apps.nowcast.metrics.resampling import Weights, resamples
from apps.nowcast.metrics.statistics import METRICS, Metric
from apps.nowcast.metrics.sums import Statistics

__all__ = ["Estimate", "difference", "estimate", "estimates", "interval", "recovered", "resamples"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval [low, high]; NaN where undefined."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


def interval(value: float, samples: np.ndarray, level: float = 0.95) -> Estimate:
    """`value` with the central `level` percentiles of `samples`; resamples without a value are left out."""
    defined = samples[np.isfinite(samples)]
    if not defined.size:
        return Estimate(value)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def estimate(statistics: Statistics, metric: Metric, weights: Weights) -> Estimate:
    """The metric over all events, with its interval over the resamples `weights`."""
    return interval(float(metric(statistics.total())), metric(statistics.resampled(weights)))


def estimates(statistics: Statistics, weights: Weights, metrics: Mapping[str, Metric] = METRICS) -> dict[str, Estimate]:
    """All metrics with their intervals; the sums are resampled once."""
    total, drawn = statistics.total(), statistics.resampled(weights)
    return {name: interval(float(metric(total)), metric(drawn)) for name, metric in metrics.items()}


def difference(method: Statistics, reference: Statistics, metric: Metric, weights: Weights) -> Estimate:
    """metric(method) - metric(reference), paired by event.

    Raises:
        ValueError: the two were not computed on the same events.
    """
    _check_paired(method, reference)
    value = float(metric(method.total()) - metric(reference.total()))
    return interval(value, metric(method.resampled(weights)) - metric(reference.resampled(weights)))


def recovered(
    method: Statistics, few_steps: Statistics, many_steps: Statistics, metric: Metric, weights: Weights
) -> Estimate:
    """Share of the loss from many to few steps that `method` makes good, paired: (method - few) / (many - few).

    1 is as good as many steps, 0 no better than few; it works for metrics of either direction. Where many and few
    steps hardly differ the share is ill-posed, and a wide interval says so.

    Raises:
        ValueError: the three were not computed on the same events.
    """
    _check_paired(method, few_steps, many_steps)

    def share(m: np.ndarray, few: np.ndarray, many: np.ndarray) -> np.ndarray:
        gap = many - few
        return np.divide(m - few, gap, out=np.full(np.shape(gap), np.nan), where=gap != 0)

    every = (method, few_steps, many_steps)
    value = float(share(*(np.asarray(metric(each.total())) for each in every)))
    return interval(value, share(*(metric(each.resampled(weights)) for each in every)))


def _check_paired(first: Statistics, *others: Statistics) -> None:
    for other in others:
        if other.events != first.events:
            raise ValueError(
                f"expected statistics of the same events in the same order, got {len(first.events)} and "
                f"{len(other.events)} events that differ; score all methods on one list of events"
            )
