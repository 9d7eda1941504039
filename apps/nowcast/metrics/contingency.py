"""Scores of yes/no events at several thresholds: counts first, scores from summed counts.

An event is `value >= threshold`, with the threshold rounded to the precision of the field, so that a rate stored as
0.7 in float32 reaches the threshold 0.7. A pixel that is missing (NaN) in either field is in none of the four counts;
CSI, POD and FAR are those of the SEVIR benchmark (Veillette et al. 2020; Gao et al. 2023), which files such pixels
under correct negatives. All thresholds are counted in one pass: both fields are turned into classes, and the joint
histogram of the classes, summed from above, holds every hit, miss and false alarm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import ArrayLike

Counts = np.ndarray
"""int64, last axis (hits, misses, false alarms, correct negatives)."""

PREDIFF_EPS = 1e-4
"""What PreDiff and CasCast add to denominators."""

_BLOCK = 1 << 20  # pixels per histogram call: keeps the int64 copy that bincount makes within the cache's reach


def as_array(values: ArrayLike | torch.Tensor) -> np.ndarray:
    """A floating NumPy view or copy of a tensor or array; half precisions become float32, integers float64."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    array = np.asarray(values)
    if array.dtype in (np.float32, np.float64):
        return array
    return array.astype(np.float32 if array.dtype == np.float16 else np.float64)


def counts(
    prediction: ArrayLike | torch.Tensor,
    target: ArrayLike | torch.Tensor,
    thresholds: Sequence[float],
    pool: int = 1,
    keep: int = 1,
) -> Counts:
    """Contingency counts of every entry of the leading axes.

    Args:
        prediction, target: (*leading, y, x), same shape, same scale as the thresholds; NaN is missing.
        thresholds: strictly ascending.
        pool: side of the blocks that are reduced to their maximum first (stride = side, incomplete blocks at the far
            edges dropped, as `max_pool2d` does). The maximum is taken over pixels that both fields have; a block
            without any is missing.
        keep: how many leading axes stay; the others are summed over. 1 keeps events, 2 events and lead times, 0 sums
            all.

    Returns:
        int64 (*leading[:keep], len(thresholds), 4).

    Raises:
        ValueError: shapes differ or are not (*leading, y, x), thresholds do not ascend, pool does not fit.
    """
    edges = _checked_thresholds(thresholds)
    predicted, observed = as_array(prediction), as_array(target)
    if predicted.shape != observed.shape or predicted.ndim < max(2, keep + 2):
        raise ValueError(
            f"expected prediction and target of one shape (..., y, x) with at least {keep} leading axes, "
            f"got {predicted.shape} and {observed.shape}"
        )
    valid = ~(np.isnan(predicted) | np.isnan(observed))
    if pool != 1:
        predicted, observed, valid = _pooled(predicted, observed, valid, pool)
    size = len(edges) + 1
    small = np.uint8 if size * size < 256 else np.int32  # what is passed over once for each threshold shall be short
    joint = _classes(predicted, edges, small)
    joint *= small(size)
    joint += _classes(observed, edges, small)
    np.copyto(joint, size * size, where=~valid)

    groups = predicted.shape[:keep]
    histograms = _histograms(joint.reshape(math.prod(groups), -1), size * size + 1)
    histograms = histograms[:, :-1].reshape(*groups, size, size)
    return _counts_from_joint(histograms)


def _checked_thresholds(thresholds: Sequence[float]) -> np.ndarray:
    edges = np.asarray(thresholds, dtype=np.float64)
    if edges.ndim != 1 or not edges.size or not np.all(np.diff(edges) > 0) or not np.all(np.isfinite(edges)):
        raise ValueError(f"expected a strictly ascending list of thresholds, got {list(thresholds)}; sort them")
    return edges


def _pooled(
    predicted: np.ndarray, observed: np.ndarray, valid: np.ndarray, pool: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = predicted.shape[-2:]
    if pool < 1 or pool > min(height, width):
        raise ValueError(f"expected a pool between 1 and the field's smaller side {min(height, width)}, got {pool}")
    rows, columns = height // pool, width // pool

    def maximum(field: np.ndarray) -> np.ndarray:
        # row by row, then column by column: several times as fast as one maximum over two axes of blocks
        over_rows = np.array(field[..., 0 : rows * pool : pool, : columns * pool])
        for row in range(1, pool):
            np.maximum(over_rows, field[..., row : rows * pool : pool, : columns * pool], out=over_rows)
        over_both = np.array(over_rows[..., 0::pool])
        for column in range(1, pool):
            np.maximum(over_both, over_rows[..., column::pool], out=over_both)
        return over_both

    low = -np.inf
    if valid.all():
        return maximum(predicted), maximum(observed), maximum(valid)
    return maximum(np.where(valid, predicted, low)), maximum(np.where(valid, observed, low)), maximum(valid)


def _classes(field: np.ndarray, edges: np.ndarray, dtype: type) -> np.ndarray:
    """How many thresholds each pixel reaches; 0 for NaN."""
    classes = np.zeros(field.shape, dtype)
    for edge in edges.astype(field.dtype):
        classes += field >= edge
    return classes


def _histograms(codes: np.ndarray, length: int) -> np.ndarray:
    """Histogram (groups, length) of every row of `codes` (groups, pixels), as many rows at a time as fit a block."""
    groups, pixels = codes.shape
    histograms = np.zeros((groups, length), np.int64)
    rows = max(1, _BLOCK // max(1, pixels))
    for first in range(0, groups, rows):
        part = codes[first : first + rows]
        offset = (np.arange(len(part), dtype=np.int64) * length)[:, None]
        histograms[first : first + rows] = np.bincount((part + offset).ravel(), minlength=len(part) * length).reshape(
            -1, length
        )
    return histograms


def _counts_from_joint(joint: np.ndarray) -> Counts:
    """(..., size, size) histogram of (predicted class, observed class) -> (..., size - 1, 4)."""
    above = joint[..., ::-1, ::-1].cumsum(axis=-2).cumsum(axis=-1)[..., ::-1, ::-1]  # pixels at or above (class, class)
    reached = np.arange(1, joint.shape[-1])
    hits = above[..., reached, reached]
    misses = above[..., 0, reached] - hits
    false_alarms = above[..., reached, 0] - hits
    correct_negatives = above[..., 0, 0][..., None] - hits - misses - false_alarms
    return np.stack([hits, misses, false_alarms, correct_negatives], axis=-1)


@dataclass(frozen=True, slots=True)
class Scores(Mapping[str, np.ndarray]):
    """Scores per threshold, also by name: `scores["csi"]` is `scores.csi`; names ending in `_mean` average thresholds.

    Attributes:
        csi: hits / (hits + misses + false alarms), 0 to 1, high is good.
        hss: Heidke skill, share of correct yes/no decisions beyond chance, -1 to 1, high is good.
        pod: probability of detection, hits / (hits + misses), 0 to 1, high is good.
        far: false alarm ratio, false alarms / (hits + false alarms), 0 to 1, low is good.
        bias: forecast yes / observed yes, 0 to infinity, 1 is unbiased.
        bias_prediff: what PreDiff's code calls bias, (bias / ln 2)^2: 2.081 for an unbiased forecast. For comparison
            only.

    A score whose denominator is zero is NaN, and averages over thresholds leave it out.
    """

    csi: np.ndarray
    hss: np.ndarray
    pod: np.ndarray
    far: np.ndarray
    bias: np.ndarray
    bias_prediff: np.ndarray

    @staticmethod
    def names() -> tuple[str, ...]:
        return tuple(field.name for field in fields(Scores))

    def __getitem__(self, name: str) -> np.ndarray:
        base = name.removesuffix("_mean")
        if base not in self.names():
            raise KeyError(name)
        values: np.ndarray = getattr(self, base)
        return values if base == name else nanmean(values)

    def __iter__(self) -> Iterator[str]:
        return iter([*self.names(), *(f"{name}_mean" for name in self.names())])

    def __len__(self) -> int:
        return 2 * len(self.names())


def scores(summed: Counts, eps: float = 0.0) -> Scores:
    """Scores from counts (..., 4) that were summed over whatever is to be scored together; see `Scores`.

    `eps` is added to the denominators: with `PREDIFF_EPS` csi, pod and 1 - far are PreDiff's, hss is CasCast's, and
        nothing is NaN.
    """
    hits, misses, false_alarms, correct_negatives = np.moveaxis(np.asarray(summed, np.float64), -1, 0)
    observed, forecast = hits + misses, hits + false_alarms
    chance = observed * (misses + correct_negatives) + forecast * (false_alarms + correct_negatives)
    bias = ratio(forecast, observed + eps)
    return Scores(
        csi=ratio(hits, hits + misses + false_alarms + eps),
        hss=ratio(2 * (hits * correct_negatives - misses * false_alarms), chance + eps),
        pod=ratio(hits, observed + eps),
        far=ratio(false_alarms + eps, forecast + eps),  # 1 - hits / (forecast + eps)
        bias=bias,
        bias_prediff=(bias / math.log(2)) ** 2,
    )


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """`numerator` / `denominator`, broadcast, float64; NaN, silently, where there is nothing to divide by."""
    above, below = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN, silently, where all are."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


class SkillScore:
    """Accumulates contingency counts over batches; scores are ratios of the summed counts, not means of ratios.

    >>> score = SkillScore(thresholds=[16, 74, 133, 160, 181, 219], pool=4)
    >>> score.update(prediction, target)    # any leading axes, then y and x, on the stored scale
    >>> score.compute().csi                 # one value per threshold; also .compute()["csi_mean"]

    Args:
        thresholds: strictly ascending; an event is value >= threshold.
        pool: 1, or the side of the blocks reduced to their maximum before thresholding (see `counts`).
        eps: added to denominators; 0 gives true ratios, `PREDIFF_EPS` the published conventions.
    """

    def __init__(self, thresholds: Sequence[float], pool: int = 1, eps: float = 0.0) -> None:
        self.thresholds = tuple(float(edge) for edge in _checked_thresholds(thresholds))
        self.pool = pool
        self.eps = eps
        self.counts: Counts = np.zeros((len(self.thresholds), 4), np.int64)

    def update(self, prediction: ArrayLike | torch.Tensor, target: ArrayLike | torch.Tensor) -> None:
        """Add a batch: (..., y, x), equal shapes, stored scale, NaN missing."""
        self.counts = self.counts + counts(prediction, target, self.thresholds, self.pool, keep=0)

    def compute(self) -> Scores:
        """Scores of everything seen so far; NaN where undefined (see `Scores`)."""
        return scores(self.counts, self.eps)
