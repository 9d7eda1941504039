"""Continuous ranked probability score of an ensemble: mean |x_i - y| - E|x - x'| / 2, low is good, in the field's unit.

Two estimates of the spread term, always say which: `ecdf` scores the ensemble as the distribution it is
(Hersbach 2000), sum_ij |x_i - x_j| / (2 n^2); `fair` is unbiased for the distribution its members were drawn from
(Ferro 2014), sum_ij |x_i - x_j| / (2 n (n - 1)). With sorted members sum_ij |x_i - x_j| = 2 sum_i (2 i - n - 1)
x_(i): n log n.

Members lie along the first axis, so a pixel's are far apart in memory and sorting them one pixel after another waits
for memory. Batcher's network sorts whole rows of pixels at once, a minimum and a maximum for each of its comparisons,
in blocks that stay in the cache.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike

from apps.nowcast.metrics.contingency import as_array

_BLOCK = 1 << 14
"""Pixels sorted at a time: a row of them is 64 KB of float32, so that dozens of members fit a core's cache."""


def crps(
    members: ArrayLike | torch.Tensor, target: ArrayLike | torch.Tensor, estimate: Literal["ecdf", "fair"] = "ecdf"
) -> np.ndarray:
    """Score of every pixel.

    Args:
        members: (n, *field).
        target: (*field).
        estimate: `ecdf` (the absolute error for n = 1) or `fair` (needs n >= 2).

    Returns:
        (*field) float; NaN where the target or any member is NaN, so that every score is of all n members.

    Raises:
        ValueError: the shapes do not fit, or `fair` with a single member, for which it is undefined.
    """
    ensemble = as_array(members)
    error, spread = crps_terms(ensemble, target)
    n = len(ensemble)
    if estimate == "fair" and n < 2:
        raise ValueError("expected at least two members for the fair CRPS, got 1; use estimate='ecdf'")
    return error - spread if estimate == "ecdf" or n == 1 else error - spread * (n / (n - 1))


def crps_terms(members: ArrayLike | torch.Tensor, target: ArrayLike | torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The two terms of the ecdf score, mean |x_i - y| and sum_ij |x_i - x_j| / (2 n^2); see `crps`.

    The fair score is the first minus n / (n - 1) times the second: one sorting serves both.
    """
    ensemble, observed = as_array(members), as_array(target)
    if ensemble.ndim != observed.ndim + 1 or ensemble.shape[1:] != observed.shape or not len(ensemble):
        raise ValueError(f"expected members (n, *field) and target (*field), got {ensemble.shape} and {observed.shape}")
    n = len(ensemble)
    dtype = np.result_type(ensemble, observed)
    rows, truth = ensemble.reshape(n, -1), observed.reshape(-1)
    error, spread = np.empty(truth.size, dtype), np.zeros(truth.size, dtype)
    for first in range(0, truth.size, _BLOCK):
        part = slice(first, first + _BLOCK)
        ordered = _sorted(rows[:, part].astype(dtype))
        _terms(ordered, truth[part].astype(dtype, copy=False), error[part], spread[part])
    return error.reshape(observed.shape), spread.reshape(observed.shape)


def _terms(ordered: list[np.ndarray], truth: np.ndarray, error: np.ndarray, spread: np.ndarray) -> None:
    """Both terms of members sorted row by row, in place; sums run in one order whatever order the members had."""
    n = len(ordered)
    error.fill(0.0)
    part = np.empty_like(truth)
    for rank, row in enumerate(ordered, 1):
        np.abs(np.subtract(row, truth, out=part), out=part)
        error += part
        if weight := 2 * rank - n - 1:
            spread += np.multiply(row, weight / (n * n), out=part)
    error /= n


def _sorted(block: np.ndarray) -> list[np.ndarray]:
    """The rows of (n, pixels), sorted pixel by pixel; `block` is used up. NaN spreads to all rows of its pixel."""
    rows = list(block)
    spare = np.empty_like(rows[0])
    for low, high in _network(len(rows)):
        np.minimum(rows[low], rows[high], out=spare)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    return rows


@cache
def _network(n: int) -> tuple[tuple[int, int], ...]:
    """Comparisons (low, high) of Batcher's odd-even merge sort of n values (Knuth, volume 3, algorithm 5.2.2M)."""
    pairs = []
    length = 1
    while length < n:
        step = length
        while step >= 1:
            for start in range(step % length, n - step, 2 * step):
                for low in range(start, min(start + step, n - step)):
                    if low // (2 * length) == (low + step) // (2 * length):
                        pairs.append((low, low + step))
            step //= 2
        length *= 2
    return tuple(pairs)
