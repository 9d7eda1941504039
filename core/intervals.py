"""Means with bootstrap intervals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

DRAWS = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A mean and the central 95 % of its resamples."""

    mean: float
    low: float
    high: float


def bootstrap_mean(values: Tensor, seed: int = 0) -> Interval:
    """The mean of independent values (n,) with its percentile interval (Efron & Tibshirani 1993, chapter 13).

    Differences of two methods on the same samples make the comparison paired.

    Raises:
        ValueError: no values.
    """
    if values.ndim != 1 or not len(values):
        raise ValueError(f"expected values (n,) to average, got {tuple(values.shape)}; give one number per sample")
    values = values.detach().double().cpu()
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack(
        [values[torch.randint(len(values), (len(values),), generator=generator)].mean() for _ in range(DRAWS)]
    )
    low, high = means.quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)).tolist()
    return Interval(float(values.mean()), low, high)
