"""Continuous ranked probability score of an ensemble: mean |x_i - y| - E|x - x'| / 2, low is good, in the field's unit.

Two estimates of the spread term, always say which: `ecdf` scores the ensemble as the distribution it is
(Hersbach 2000), sum_ij |x_i - x_j| / (2 n^2); `fair` is unbiased for the distribution its members were drawn from
(Ferro 2014), sum_ij |x_i - x_j| / (2 n (n - 1)). With sorted members sum_ij |x_i - x_j| = 2 sum_i (2 i - n - 1)
x_(i): n log n.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike

from apps.nowcast.metrics.contingency import as_array


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
    ensemble, observed = as_array(members), as_array(target)
    if ensemble.ndim != observed.ndim + 1 or ensemble.shape[1:] != observed.shape or not len(ensemble):
        raise ValueError(f"expected members (n, *field) and target (*field), got {ensemble.shape} and {observed.shape}")
    n = len(ensemble)
    if estimate == "fair" and n < 2:
        raise ValueError("expected at least two members for the fair CRPS, got 1; use estimate='ecdf'")

    error = np.abs(ensemble - observed).mean(axis=0)
    if n == 1:
        return error
    ranks = np.arange(1, n + 1)
    weights = ((2 * ranks - n - 1) / (n * n if estimate == "ecdf" else n * (n - 1))).astype(ensemble.dtype)
    spread = np.tensordot(weights, np.sort(ensemble, axis=0), axes=1)
    return error - spread
