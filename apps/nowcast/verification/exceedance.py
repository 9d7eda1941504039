"""Probabilities of reaching a threshold: one table of counts holds Brier score, reliability and ROC.

The probability that n members give is k / n for the k of them that reach the threshold, so a pixel is one of 2 (n + 1)
cases: k, and whether the truth reaches it. Their numbers are exact and add up over frames and events.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apps.nowcast.metrics.contingency import ratio


def exceedance_counts(members: np.ndarray, truth: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Pixels by number of members at or above a threshold, and by truth.

    Args:
        members: (n, *leading, y, x), finite.
        truth: (*leading, y, x), NaN where missing: such pixels count nowhere.
        thresholds: on the scale of the fields.

    Returns:
        int64 (*leading, thresholds, n + 1, 2); the last axis is (truth below, truth at or above).

    Raises:
        ValueError: the shapes do not fit.
    """
    if members.ndim != truth.ndim + 1 or members.shape[1:] != truth.shape or truth.ndim < 2:
        raise ValueError(
            f"expected members (n, *leading, y, x) and truth (*leading, y, x), got {members.shape} and {truth.shape}"
        )
    n, leading = len(members), truth.shape[:-2]
    table = np.zeros((*leading, len(thresholds), n + 1, 2), np.int64)
    for place in np.ndindex(leading):
        seen = ~np.isnan(truth[place])
        observed = truth[place][seen]
        forecasts = members[(slice(None), *place)][:, seen]
        for number, threshold in enumerate(thresholds):
            edge = truth.dtype.type(threshold)
            codes = np.zeros(observed.shape, np.intp)
            for forecast in forecasts:
                codes += forecast >= edge
            codes += codes
            codes += observed >= edge
            table[(*place, number)] = np.bincount(codes, minlength=2 * (n + 1)).reshape(n + 1, 2)
    return table


def _probabilities(table: np.ndarray) -> np.ndarray:
    n = table.shape[-2] - 1
    return np.arange(n + 1) / n


def brier(table: np.ndarray) -> np.ndarray:
    """Brier score of counts (..., n + 1, 2) -> (...): mean (p - o)^2, 0 to 1, low is good (Brier 1950)."""
    p = _probabilities(table)
    wrong = (table[..., 0] * p**2 + table[..., 1] * (1 - p) ** 2).sum(axis=-1)
    return ratio(wrong, table.sum(axis=(-2, -1)))


def brier_fair(table: np.ndarray) -> np.ndarray:
    """Brier score that does not punish few members, mean (p - o)^2 - k (n - k) / (n^2 (n - 1)) (Ferro 2014); NaN for
    one member."""
    n = table.shape[-2] - 1
    if n < 2:
        return np.full(table.shape[:-2], np.nan)
    k = np.arange(n + 1)
    excess = (table.sum(axis=-1) * (k * (n - k) / (n**2 * (n - 1)))).sum(axis=-1)
    return brier(table) - ratio(excess, table.sum(axis=(-2, -1)))


def brier_parts(table: np.ndarray) -> np.ndarray:
    """(..., n + 1, 2) -> (..., 3): reliability (low is good), resolution (high is good) and uncertainty, of which the
    Brier score is the first minus the second plus the third (Murphy 1973)."""
    each = table.sum(axis=-1)
    total = each.sum(axis=-1)
    frequency = np.nan_to_num(observed_frequency(table))
    climate = ratio(table[..., 1].sum(axis=-1), total)
    reliability = ratio((each * (_probabilities(table) - frequency) ** 2).sum(axis=-1), total)
    resolution = ratio((each * (frequency - climate[..., None]) ** 2).sum(axis=-1), total)
    return np.stack([reliability, resolution, climate * (1 - climate)], axis=-1)


def brier_skill(table: np.ndarray) -> np.ndarray:
    """1 - Brier / (f (1 - f)) with the frequency f of the scored pixels themselves: at most 1, 0 as their climate."""
    return 1 - ratio(brier(table), brier_parts(table)[..., 2])


def observed_frequency(table: np.ndarray) -> np.ndarray:
    """Reliability diagram: how often the truth reached the threshold where the forecast was k / n, (..., n + 1)."""
    return ratio(table[..., 1], table.sum(axis=-1))


def forecast_share(table: np.ndarray) -> np.ndarray:
    """Sharpness: share of the pixels with forecast k / n, (..., n + 1)."""
    each = table.sum(axis=-1)
    return ratio(each, each.sum(axis=-1, keepdims=True))


def roc_curve(table: np.ndarray) -> np.ndarray:
    """(..., n + 1, 2) -> (..., n + 2, 2): (false alarm rate, hit rate) of the warnings `k or more members`, k = 0 to
    n + 1, that is from (1, 1) to (0, 0)."""
    beyond = np.zeros((*table.shape[:-2], 1, 2))
    warned = np.concatenate([table[..., ::-1, :].cumsum(axis=-2)[..., ::-1, :], beyond], axis=-2)
    return ratio(warned, table.sum(axis=-2)[..., None, :])


def roc_area(table: np.ndarray) -> np.ndarray:
    """Area under `roc_curve` by trapezoids: 0 to 1, 0.5 without skill (Mason 1982); NaN where the truth is all or
    nothing."""
    curve = roc_curve(table)
    false, hit = curve[..., 0], curve[..., 1]
    return ((false[..., :-1] - false[..., 1:]) * (hit[..., :-1] + hit[..., 1:]) / 2).sum(axis=-1)
