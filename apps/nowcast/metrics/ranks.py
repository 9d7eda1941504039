"""Rank histogram of an ensemble: where the truth falls among its members. Flat where both are draws of one
distribution, a U where the members are too alike, a slope where they are too high or too low (Hamill 2001).

Most pixels of a radar frame are dry in truth and forecast alike and say nothing. Those below the lowest threshold count
as equally dry, and only pixels count where the truth or a member reaches it: a choice that is the same for the truth
and for each member, so that a calibrated ensemble's histogram stays flat. Where the truth ties with members, it is
shared out evenly over the ranks it could have.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from apps.nowcast.metrics.contingency import as_array


def rank_counts(members: ArrayLike, truth: ArrayLike, lowest: float) -> np.ndarray:
    """How many pixels have a truth of each rank.

    Args:
        members: (n, *leading, y, x), finite.
        truth: (*leading, y, x), NaN where missing.
        lowest: the lowest threshold, on the scale of the fields.

    Returns:
        float64 (*leading, n + 1): rank k, with k members below the truth.

    Raises:
        ValueError: the shapes do not fit.
    """
    ensemble, observed = as_array(members), as_array(truth)
    if ensemble.ndim != observed.ndim + 1 or ensemble.shape[1:] != observed.shape or observed.ndim < 2:
        raise ValueError(
            f"expected members (n, *leading, y, x) and truth (*leading, y, x), got {ensemble.shape} and "
            f"{observed.shape}"
        )
    edge = observed.dtype.type(lowest)
    wet = (observed >= edge) | ((ensemble >= edge).any(axis=0) & ~np.isnan(observed))
    ensemble, observed = (np.where(field >= edge, field, -np.inf) for field in (ensemble, observed))
    below = (ensemble < observed).sum(axis=0)
    ties = (ensemble == observed).sum(axis=0)
    share = np.where(wet, 1.0 / (ties + 1), 0.0)
    ranks = [np.where((below <= k) & (k <= below + ties), share, 0.0) for k in range(len(ensemble) + 1)]
    return np.stack([rank.sum(axis=(-2, -1)) for rank in ranks], axis=-1)


def rank_frequencies(counts: np.ndarray) -> np.ndarray:
    """Counts (..., leads, n + 1) -> share of each rank over all leads (..., n + 1); NaN where nothing was counted."""
    summed = np.asarray(counts, np.float64).sum(axis=-2)
    total = summed.sum(axis=-1, keepdims=True)
    return np.divide(summed, total, out=np.full(summed.shape, np.nan), where=total != 0)


def outliers(counts: np.ndarray) -> np.ndarray:
    """Share of pixels whose truth lies outside the ensemble, over the 2 / (n + 1) of a calibrated one (..., leads,
    n + 1) -> (...).

    Above 1 the members are too alike or displaced, below it too spread; NaN for a single member, which encloses
    nothing.
    """
    frequencies = rank_frequencies(counts)
    n = frequencies.shape[-1] - 1
    if n < 2:
        return np.full(frequencies.shape[:-1], np.nan)
    return (frequencies[..., 0] + frequencies[..., -1]) * (n + 1) / 2
