"""Noise <-> data <-> velocity <-> v: the only place where what a network predicts is turned into something else.

Every target is a combination p * data + q * noise, and so is the state, alpha * data + sigma * noise. Knowing the
state and one target, any other is therefore a * value + b * x:

    noise     (p, q) = (0, 1)
    data      (p, q) = (1, 0)
    velocity  (p, q) = (d_alpha, d_sigma)      dx/dt along the probability flow
    v         (p, q) = (-sigma, alpha)         Salimans & Ho 2022, arXiv 2202.00512
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from core.schedules import Schedule, Signal

Target = Literal["noise", "data", "velocity", "v"]
TARGETS: tuple[Target, ...] = get_args(Target)


def mixture_of(target: Target, signal: Signal) -> tuple[Tensor, Tensor]:
    """(p, q) of target = p * data + q * noise.

    Raises:
        ValueError: an unknown target.
    """
    zero, one = torch.zeros_like(signal.alpha), torch.ones_like(signal.alpha)
    match target:
        case "noise":
            return zero, one
        case "data":
            return one, zero
        case "velocity":
            return signal.d_alpha, signal.d_sigma
        case "v":
            return -signal.sigma, signal.alpha
    raise ValueError(f"expected one of {', '.join(TARGETS)}, got {target!r}; name what the network predicts")


def coefficients(signal: Signal, source: Target, target: Target) -> tuple[Tensor, Tensor]:
    """(a, b) of target = a * source + b * x, of the shape of the signal."""
    p, q = mixture_of(source, signal)
    p_target, q_target = mixture_of(target, signal)
    determinant = p * signal.sigma - q * signal.alpha
    of_value = (p_target * signal.sigma - q_target * signal.alpha) / determinant
    of_x = (p * q_target - q * p_target) / determinant
    return of_value, of_x


def convert(value: Tensor, x: Tensor, signal: Signal, source: Target, target: Target) -> Tensor:
    """The `target` that belongs to the state x (B, *space) where the `source` is `value` (B, *space).

    It is infinite where the source does not determine the target: noise at alpha = 0, data at sigma = 0.
    """
    if source == target:
        return value
    of_value, of_x = coefficients(signal, source, target)
    return of_value * value + of_x * x


Scalar = float | Tensor
"""A coefficient: a float, which is quick, or a tensor where times have gradients or differ by sample; of equal bits."""
MOST_TIMES = 4096
"""How many are remembered at most: more than any run has."""


class ByTime:
    """Coefficients as a function of times, remembered: the times of a grid come back in every run.

    Remembered ones are floats. Times that carry gradients, differ by sample or lie on an accelerator give tensors and
    are not remembered.
    """

    __slots__ = ("_function", "_known")

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self._function = function
        self._known: dict[tuple[float, ...], tuple[float, ...]] = {}

    def __call__(self, *times: Tensor) -> tuple[Scalar, ...]:
        for t in times:
            if t.requires_grad or t.ndim or not t.is_cpu:
                return self._function(*times)
        key = tuple(map(float, times))
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MOST_TIMES:
                self._known.clear()
            found = self._known[key] = tuple(map(float, self._function(*times)))
        return found


class Conversion:
    """`convert` for one schedule, source and target: (value, x, t) -> the target, its coefficients remembered."""

    __slots__ = ("_coefficients", "_same")

    def __init__(self, schedule: Schedule, source: Target, target: Target) -> None:
        self._same = source == target
        self._coefficients = ByTime(partial(_coefficients_at, schedule, source, target))

    def __call__(self, value: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if self._same:
            return value
        of_value, of_x = self._coefficients(t)
        return add_scaled(of_value * value, x, of_x)


def _coefficients_at(schedule: Schedule, source: Target, target: Target, t: Tensor) -> tuple[Tensor, Tensor]:
    return coefficients(schedule(t), source, target)


def add_scaled(total: Tensor, tensor: Tensor, weight: Scalar) -> Tensor:
    """total += weight * tensor, in one pass over memory; none for the float 0."""
    if isinstance(weight, Tensor):
        return total.addcmul_(tensor, weight)
    return total if weight == 0 else total.add_(tensor, alpha=weight)
