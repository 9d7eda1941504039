"""Fractions skill score: is there as much rain around a pixel as there was, whatever its exact place?

With f and o the fractions of a w x w window around a pixel that reach a threshold, forecast and observed,
FSS = 1 - sum (f - o)^2 / (sum f^2 + sum o^2) = 2 sum f o / (sum f^2 + sum o^2) (Roberts and Lean 2008): 0 to 1, high
is good. Windows are centred at every pixel and hold no rain outside the field, as pysteps has it. Pixels whose truth is
missing hold none either, in forecast and truth. Sums are of whole numbers, so that adding them is exact.

Three forms, by name: of single members; of the ensemble mean; of the probability, whose f is the mean over the members'
(the neighbourhood probability of Schwartz et al. 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from apps.nowcast.metrics.contingency import ratio

WINDOWS = (1, 5, 17, 33)
"""Sides of the windows, in pixels."""


class FractionSums(NamedTuple):
    """Each (leads, thresholds, windows, 3): sums of f^2, f o and o^2, in squared pixels of a window."""

    members: np.ndarray
    mean: np.ndarray
    probability: np.ndarray


def fraction_sums(
    members: np.ndarray, truth: np.ndarray, thresholds: Sequence[float], windows: Sequence[int] = WINDOWS
) -> FractionSums:
    """What the score is a ratio of.

    Args:
        members: (n, leads, y, x), finite.
        truth: (leads, y, x), NaN where missing.
        thresholds: on the scale of the fields; reached means >=.
        windows: odd sides in pixels; a window may be larger than the field.

    Raises:
        ValueError: an even window, or one below 1.
    """
    if any(window < 1 or window % 2 == 0 for window in windows):
        raise ValueError(f"expected windows of odd sides, which have a middle, got {list(windows)}")
    n, leads = members.shape[:2]
    sums = [np.zeros((leads, len(thresholds), len(windows), 3)) for _ in range(3)]
    of_mean = members.mean(axis=0)
    for lead in range(leads):
        seen = ~np.isnan(truth[lead])
        for number, threshold in enumerate(thresholds):
            edge = truth.dtype.type(threshold)
            fields = [(field >= edge) & seen for field in (truth[lead], of_mean[lead], *members[:, lead])]
            if not any(field.any() for field in fields):
                continue
            corners = [_summed(field) for field in fields]
            for place, window in enumerate(windows):
                observed, mean = (_boxes(corner, window) for corner in corners[:2])
                at, together = (lead, number, place), np.zeros_like(observed)
                for corner in corners[2:]:
                    forecast = _boxes(corner, window)
                    together += forecast
                    sums[0][at] += _products(forecast, observed)
                sums[1][at] = _products(mean, observed)
                ff, fo, oo = _products(together, observed)
                sums[2][at] = ff / n**2, fo / n, oo
    return FractionSums(*sums)


def _summed(field: np.ndarray) -> np.ndarray:
    """Number of true pixels above and left of each corner of a pixel, (y + 1, x + 1)."""
    corners = np.zeros((field.shape[0] + 1, field.shape[1] + 1), np.int32)
    corners[1:, 1:] = field.cumsum(axis=0, dtype=np.int32).cumsum(axis=1)
    return corners


def _boxes(corners: np.ndarray, window: int) -> np.ndarray:
    """Number of true pixels in the window around each pixel, float64 (y, x)."""
    height, width = corners.shape[0] - 1, corners.shape[1] - 1
    if not corners[-1, -1]:
        return np.zeros((height, width))
    rows = _differences(corners, window, height)
    return _differences(rows.T, window, width).T.astype(np.float64, order="C")


def _differences(sums: np.ndarray, window: int, length: int) -> np.ndarray:
    """Sums over the window around each of `length` places of cumulative sums (length + 1, ...) along the first axis."""
    places = np.arange(length)
    first, last = np.maximum(places - window // 2, 0), np.minimum(places + window // 2 + 1, length)
    return sums[last] - sums[first]


def _products(forecast: np.ndarray, observed: np.ndarray) -> tuple[float, float, float]:
    f, o = forecast.ravel(), observed.ravel()
    return float(f @ f), float(f @ o), float(o @ o)


def fss(sums: np.ndarray) -> np.ndarray:
    """Score of sums (..., 3); NaN where neither has any rain."""
    return ratio(2 * sums[..., 1], sums[..., 0] + sums[..., 2])


def useful_fss(observed_share: np.ndarray) -> np.ndarray:
    """What a useful forecast exceeds, 0.5 + f / 2 for rain in the share f of pixels (Roberts and Lean 2008)."""
    return 0.5 + np.asarray(observed_share) / 2
