"""DMN: a grid that minimises a bound on the error of multistep data prediction, without a network (Xue et al. 2024,
arXiv 2402.17376)."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, minimize
from torch import Tensor

Vector = NDArray[np.float64]
POWER = 1
MOST_ORDER = 3
EARLY, FEW_STEPS = 3, 7
SHORTEST = 0.1
WARPS = (1.0, 0.8, 1.25)


def search(ratio_max: float, ratio_min: float, steps: int, power: int = POWER) -> Tensor:
    """Descending sigma / alpha (steps + 1,) at which `bound` is least.

    The best of the local minima that scipy's trust-constr finds from grids even in log-SNR, and a little denser at
    either end; from seven steps on the bound has many.

    Args:
        ratio_max, ratio_min: sigma / alpha at the ends, positive and finite.
        steps: at least 1.
        power: see `bound`.
    """
    first, last = -math.log(ratio_max), -math.log(ratio_min)
    starts = (first + (last - first) * np.linspace(0, 1, steps + 1) ** warp for warp in WARPS)
    found = [_local_minimum(start, power) for start in starts]
    return torch.from_numpy(np.exp(-min(found, key=lambda nodes: bound(nodes, power))))


def _local_minimum(start: Vector, power: int) -> Vector:
    """Ascending nodes near `start` with the same ends, no step much shorter than the mean."""
    steps = len(start) - 1
    if steps == 1:
        return start

    def whole(inner: Vector) -> Vector:
        return np.concatenate([start[:1], inner, start[-1:]])

    lengths = np.eye(steps, steps - 1) - np.eye(steps, steps - 1, -1)
    ends = np.zeros(steps)
    ends[0], ends[-1] = -start[0], start[-1]
    shortest = SHORTEST * (start[-1] - start[0]) / steps
    ascending = LinearConstraint(lengths, shortest - ends, np.inf, keep_feasible=True)
    with warnings.catch_warnings():  # of a gradient that did not change, where the bound is straight
        warnings.simplefilter("ignore", UserWarning)
        found = minimize(
            lambda inner: bound(whole(inner), power), start[1:-1], method="trust-constr", constraints=[ascending]
        )
    return whole(found.x)


def bound(half_log_snr: Vector, power: int = POWER) -> float:
    """How much errors of the data predictions, of size sigma^power / alpha at each node, can add up to.

    A step of order k adds sum_j J_j error_j, J_j the integral over the step, weighted by e^lambda, of the Lagrange
    basis on the last k nodes in lambda = log(alpha / sigma), VP; orders are 1, 2, 3, ..., 3, 2, 1. Steps of order 1 add
    |J error|; others among the first three, of at most seven, as if errors were independent; the rest add up with
    their signs for each node first, as if an error at a node were the same in all steps.

    Args:
        half_log_snr: lambda (N + 1,), ascending.
        power: 1 for pixels, 2 for latents.
    """
    steps = len(half_log_snr) - 1
    alpha, sigma = (1 / np.sqrt(1 + np.exp(sign * 2 * half_log_snr)) for sign in (-1, 1))
    error = sigma**power / alpha
    total, shared = 0.0, np.zeros(steps)
    for step in range(steps):
        order = min(step + 1, MOST_ORDER, steps - step)
        used = slice(step + 1 - order, step + 1)
        parts = error[used] * _integrals(half_log_snr[used], half_log_snr[step + 1])
        if order == 1:
            total += abs(parts[0])
        elif step < EARLY and steps <= FEW_STEPS:
            total += float(np.sqrt(np.square(parts).sum()))
        else:
            shared[used] += parts
    return total + float(np.abs(shared).sum())


def _integrals(nodes: Vector, end: float) -> Vector:
    """Integrals from nodes[-1] to end of e^s L_j(s) ds for the Lagrange basis on the nodes, oldest first."""
    h = end - nodes[-1]
    h0 = math.expm1(h)
    h1 = h * math.exp(h) - h0
    h2 = h * h * math.exp(h) - 2 * h1
    scale = math.exp(nodes[-1])
    if len(nodes) == 1:
        return scale * np.array([h0])
    g1 = nodes[-1] - nodes[-2]
    if len(nodes) == 2:
        return scale * np.array([-h1, h1 + g1 * h0]) / g1
    g0 = nodes[-2] - nodes[-3]
    oldest = (h2 + g1 * h1) / (g0 * (g0 + g1))
    middle = -(h2 + (g0 + g1) * h1) / (g0 * g1)
    newest = (h2 + (2 * g1 + g0) * h1 + g1 * (g0 + g1) * h0) / (g1 * (g0 + g1))
    return scale * np.array([oldest, middle, newest])
