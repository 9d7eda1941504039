"""Means with intervals: bootstrap where there are many values, Student's t where there are a few."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.special import stdtrit
from torch import Tensor

DRAWS = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

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


def student_mean(values: Tensor) -> Interval:
    """The mean of a few independent values (n,), n >= 2, near to normal, with Student's t interval of n - 1 degrees.

    For repetitions of a whole experiment, such as Frechet distances of disjoint blocks of samples: to resample the
    samples of one would bias the distance. Differences of two methods on the same blocks make the comparison paired.

    Raises:
        ValueError: fewer than two values.
    """
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"expected at least 2 values (n,) to average, got {tuple(values.shape)}; repeat the experiment"
        )
    values = values.detach().double().cpu()
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2) * values.std() / len(values) ** 0.5)
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half)
