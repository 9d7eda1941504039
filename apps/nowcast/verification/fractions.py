"""Fractions skill score: is there as much rain around a pixel as there was, whatever its exact place?

With f and o the fractions of a w x w window around a pixel that reach a threshold, forecast and observed,
FSS = 1 - sum (f - o)^2 / (sum f^2 + sum o^2) = 2 sum f o / (sum f^2 + sum o^2) (Roberts and Lean 2008): 0 to 1, high
is good. Windows are centred at every pixel and hold no rain outside the field, as pysteps has it. Pixels whose truth is
missing hold none either, in forecast and truth.

Three forms, by name: of single members; of the ensemble mean; of the probability, whose f is the mean over the members'
(the neighbourhood probability of Schwartz et al. 2010). Sums of the first two are of whole numbers, so that adding them
is exact; those of the third are whole numbers over n or n^2, which are rounded to float64 once for each frame.
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
    reaches = [min(window // 2, max(truth.shape[1:])) for window in windows]
    for lead in range(leads):
        seen = ~np.isnan(truth[lead])
        for number, threshold in enumerate(thresholds):
            edge = truth.dtype.type(threshold)
            fields = [(field >= edge) & seen for field in (truth[lead], *members[:, lead])]
            if not any(field.any() for field in fields):
                continue  # then the mean reaches it nowhere either
            observed, *forecasts = (_table(field, max(reaches)) for field in fields)
            # of one member, all three forms are the same
            mean = _table((of_mean[lead] >= edge) & seen, max(reaches)) if n > 1 else forecasts[0]
            together = sum(forecasts[1:], start=forecasts[0])  # what is around a pixel adds up over members
            for place, reach in enumerate(reaches):
                at, o = (lead, number, place), _boxes(observed, reach, max(reaches))
                oo = float(o @ o)
                each = [_products(_boxes(forecast, reach, max(reaches)), o, oo) for forecast in forecasts]
                sums[0][at] = np.sum(each, axis=0)
                sums[1][at] = _products(_boxes(mean, reach, max(reaches)), o, oo) if n > 1 else each[0]
                ff, fo, _ = _products(_boxes(together, reach, max(reaches)), o, oo) if n > 1 else each[0]
                sums[2][at] = ff / n**2, fo / n, oo
    return FractionSums(*sums)


def _table(field: np.ndarray, margin: int) -> np.ndarray:
    """Number of true pixels above and left of each corner of a pixel, int32, with `margin` corners beyond each edge:
    (y + 1 + 2 margin, x + 1 + 2 margin)."""
    height, width = field.shape
    table = np.zeros((height + 1 + 2 * margin, width + 1 + 2 * margin), np.int32)
    rows, columns = slice(margin + 1, margin + 1 + height), slice(margin + 1, margin + 1 + width)
    np.cumsum(field.cumsum(axis=0, dtype=np.int32), axis=1, out=table[rows, columns])
    table[rows, columns.stop :] = table[rows, columns.stop - 1, None]
    table[rows.stop :] = table[rows.stop - 1]
    return table


def _boxes(table: np.ndarray, reach: int, margin: int) -> np.ndarray:
    """Number of true pixels no more than `reach` rows and columns away from each pixel, float64 (y x,)."""
    height, width = (size - 1 - 2 * margin for size in table.shape)
    before, behind = margin - reach, margin + reach + 1
    rows = table[behind : behind + height] - table[before : before + height]
    return np.subtract(rows[:, behind : behind + width], rows[:, before : before + width], dtype=np.float64).ravel()


def _products(f: np.ndarray, o: np.ndarray, oo: float) -> tuple[float, float, float]:
    return float(f @ f), float(f @ o), oo


def fss(sums: np.ndarray) -> np.ndarray:
    """Score of sums (..., 3); NaN where neither has any rain."""
    return ratio(2 * sums[..., 1], sums[..., 0] + sums[..., 2])


def useful_fss(observed_share: np.ndarray) -> np.ndarray:
    """What a useful forecast exceeds, 0.5 + f / 2 for rain in the share f of pixels (Roberts and Lean 2008)."""
    return 0.5 + np.asarray(observed_share) / 2
