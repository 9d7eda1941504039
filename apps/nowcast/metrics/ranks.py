"""Rank histogram of an ensemble: where the truth falls among its members. Flat where both are draws of one
distribution, a U where the members are too alike, a slope where they are too high or too low (Hamill 2001).

Most pixels of a radar frame are dry in truth and forecast alike and say nothing. Those below the lowest threshold count
as equally dry, and only pixels count where the truth or a member reaches it: a choice that is the same for the truth
and for each member, so that a calibrated ensemble's histogram stays flat. Where the truth ties with members, it is
shared out evenly over the ranks it could have.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from apps.nowcast.metrics.contingency import as_array

_BLOCK = 1 << 15
"""Pixels at a time, so that they stay in the cache."""


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
    n, groups = len(ensemble), observed.shape[:-2]
    rows, truth = ensemble.reshape(n, *groups, -1), observed.reshape(*groups, -1)
    edge = observed.dtype.type(lowest)
    histograms = np.zeros((*groups, (n + 1) * (n + 2)), np.int64)
    for group in np.ndindex(groups):
        for first in range(0, truth.shape[-1], _BLOCK):
            place = (*group, slice(first, first + _BLOCK))
            codes = _codes(rows[(slice(None), *place)], truth[place], edge)
            histograms[group] += np.bincount(codes, minlength=histograms.shape[-1])
    return histograms @ _shares(n)


def _codes(members: np.ndarray, truth: np.ndarray, edge: np.floating) -> np.ndarray:
    """What decides a pixel's rank, as one number: (members below the truth) * (n + 1) + (members equal to it) for a wet
    truth, (n + 1)^2 + (dry members) for a dry one; a missing truth is one with nothing but dry members, which counts
    nowhere. Members (n, pixels), truth (pixels)."""
    n = len(members)
    level = np.fmax(truth, edge)  # below it: what a wet truth exceeds, what is as dry as a dry one; also for NaN
    small = np.uint8 if n < 256 else np.uint16
    lower, equal = np.zeros(truth.shape, small), np.zeros(truth.shape, small)
    for member in members:
        lower += member < level
        equal += member == level
    codes = lower.astype(np.intp)
    wet = truth >= edge
    codes[wet] = codes[wet] * (n + 1) + equal[wet]
    codes[~wet] += (n + 1) ** 2
    codes[np.isnan(truth)] = (n + 1) ** 2 + n
    return codes


@cache
def _shares(n: int) -> np.ndarray:
    """How much of a pixel of each of `_codes` falls to each rank, ((n + 1) (n + 2), n + 1)."""
    shares = np.zeros(((n + 1) * (n + 2), n + 1))
    for below in range(n + 1):
        for ties in range(n + 1 - below):
            shares[below * (n + 1) + ties, below : below + ties + 1] = 1.0 / (ties + 1)
    for ties in range(n):  # with n of them nobody sees rain
        shares[(n + 1) ** 2 + ties, : ties + 1] = 1.0 / (ties + 1)
    return shares


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
