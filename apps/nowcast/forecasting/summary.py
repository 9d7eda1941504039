"""Ensemble mean and probabilities of exceedance, summed up member by member."""

from __future__ import annotations

import numpy as np


class Summary:
    """Sums over members of fields (T, H, W), NaN missing; memory does not grow with the members.

    Attributes:
        members: number of members that were added.
    """

    def __init__(self, shape: tuple[int, ...], thresholds: tuple[float, ...], mean: bool) -> None:
        self.thresholds = thresholds
        self.members = 0
        self._sum = np.zeros(shape, np.float64) if mean else None
        self._counts = np.zeros((len(thresholds), *shape), np.uint32)
        self._missing = np.zeros(shape, bool)

    def add(self, fields: np.ndarray) -> None:
        self.members += 1
        self._missing |= np.isnan(fields)
        if self._sum is not None:
            self._sum += fields
        for count, threshold in zip(self._counts, self.thresholds, strict=True):
            count += fields >= np.float32(threshold)  # rounded as the fields are: 0.1 reaches 0.1

    def mean(self) -> np.ndarray:
        """(T, H, W) float32, NaN missing."""
        assert self._sum is not None
        return (self._sum / self.members).astype(np.float32)

    def probability(self, number: int) -> np.ndarray:
        """(T, H, W) float32: share of the members at threshold `number` or above, NaN missing."""
        share = self._counts[number].astype(np.float32) / np.float32(self.members)
        share[self._missing] = np.nan
        return share
