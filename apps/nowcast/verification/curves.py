"""Scores with their intervals by lead time and threshold, for one method or for the difference of two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from apps.nowcast.metrics.resampling import Weights
from apps.nowcast.metrics.sums import Lazily, Statistics
from apps.nowcast.verification.definitions import SCORES, Form, Score

LEVEL = 0.95
_MOST = 1 << 27
"""Bytes of resampled sums that are kept for the next score."""


@dataclass(frozen=True)
class Curve:
    """Values with the ends of their intervals, each of shape `dims`; NaN where undefined."""

    dims: tuple[str, ...]
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Curves:
    """A score by lead time, (lead, ...), and of all lead times together, (...)."""

    name: str
    form: Form
    by_lead: Curve
    all_leads: Curve


def curves(statistics: Statistics, weights: Weights, names: Iterable[str] = tuple(SCORES)) -> dict[str, Curves]:
    """Scores of one method.

    Args:
        statistics: with all that `events.event_sums` computes.
        weights: (resamples, events).
        names: of `SCORES`.

    Raises:
        KeyError: a name that is none.
    """
    return _curves((statistics,), weights, names)


def curve_differences(
    method: Statistics, reference: Statistics, weights: Weights, names: Iterable[str] = tuple(SCORES)
) -> dict[str, Curves]:
    """Scores of `method` minus those of `reference`, paired: each resample is of the same events for both.

    Raises:
        ValueError: the two are not of the same events.
        KeyError: a name that is none.
    """
    if method.events != reference.events:
        raise ValueError("expected statistics of the same events in the same order, got others; score both on one list")
    return _curves((method, reference), weights, names)


def _curves(each: Sequence[Statistics], weights: Weights, names: Iterable[str]) -> dict[str, Curves]:
    totals = [statistics.total() for statistics in each]
    drawn = [statistics.resampled(weights) for statistics in each]
    found = {}
    for name in names:
        score = SCORES[name]
        by_lead = _curve(score.dims, *(_difference(score, sums) for sums in (totals, drawn)))
        pooled = ([_over_leads(sums, axis) for sums in some] for some, axis in ((totals, 0), (drawn, 1)))
        value, samples = (_difference(score, sums) for sums in pooled)
        found[name] = Curves(name, score.form, by_lead, _curve(score.dims[1:], value[0], samples[:, 0]))
        if sum(sums.nbytes for sums in drawn) > _MOST:
            drawn = [statistics.resampled(weights) for statistics in each]
    return found


def _difference(score: Score, sums: Sequence[Lazily]) -> np.ndarray:
    values = [score.of(one) for one in sums]
    return values[0] if len(values) == 1 else values[0] - values[1]


def _over_leads(sums: Lazily, axis: int) -> Lazily:
    return Lazily(sums, lambda name: sums[name].sum(axis=axis, keepdims=True))


def _curve(dims: tuple[str, ...], value: np.ndarray, samples: np.ndarray) -> Curve:
    """Values (*dims) and samples (resamples, *dims) -> percentile interval; undefined samples are left out."""
    flat = samples.reshape(len(samples), -1)
    ends = np.full((2, flat.shape[1]), np.nan)
    quantiles = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    defined = np.isfinite(flat)
    whole = defined.all(axis=0)
    if whole.any():
        ends[:, whole] = np.quantile(flat[:, whole], quantiles, axis=0)
    for column in np.flatnonzero(~whole & defined.any(axis=0)):
        ends[:, column] = np.quantile(flat[defined[:, column], column], quantiles)
    low, high = ends.reshape(2, *value.shape)
    return Curve(dims, value, low, high)
