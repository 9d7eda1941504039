"""diffusers' own time grids for rectified flow, with their quirks, for comparison with numbers made by them.

    flow-match-euler  shifts twice: the smallest sigma is stored after the shift, and the even grid from it is shifted
                      again. With few steps the last evaluation is spent near sigma = 0, e.g. 0.009 for five steps and
                      shift 3, from where it jumps to 0
    dpm-solver++      starts below sigma = 1 (0.99967 for shift 3), and tells the network sigma * 1000 cut to an integer
    unipc             runs evenly down to sigma = 1/1000 before the shift, starts at 1 - 1e-6, integers likewise

As in diffusers 0.42.1, schedulers FlowMatchEulerDiscrete, DPMSolverMultistep and UniPCMultistep (the latter two with
use_flow_sigmas), measured by running them. The grid that `SpanLiftScheduler` has by default is the sane one:
sigma = s u / (1 + (s - 1) u) of even u from 1 to 0, the network told sigma as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

Numbers = TypeVar("Numbers", np.ndarray, Tensor)

NEAR_ONE = 1e-6
"""How far below 1 UniPC starts, where log(1 - sigma) is finite."""


class Times(NamedTuple):
    """A grid of sigmas (N + 1,), float64 holding single-precision values, and the timesteps (N,) told to the network:
    float32, or int64 where diffusers cuts them."""

    sigmas: Tensor
    timesteps: Tensor


class Shift(NamedTuple):
    """sigma = factor u / (1 + (factor - 1) u); `dynamic` where the factor comes from the size of the image."""

    factor: float
    dynamic: bool = False

    def __call__(self, u: Numbers) -> Numbers:
        return self.factor * u / (1 + (self.factor - 1) * u)


def flow_match_euler(steps: int, shift: Shift, train_steps: int, sigmas: Sequence[float] | None = None) -> Times:
    """FlowMatchEulerDiscreteScheduler; sigmas given by the caller are shifted once, as they should be.

    A dynamic shift is known only here, so that then the stored smallest sigma is not shifted either.
    """
    if sigmas is None:
        ends = np.array([1.0, 1.0 / train_steps], np.float32)
        first, last = (ends if shift.dynamic else shift(ends)).tolist()
        u = np.linspace(first * train_steps, last * train_steps, steps) / train_steps
    else:
        u = np.array(sigmas, np.float64)
    shifted = torch.from_numpy(shift(u)).float()
    return Times(_to_zero(shifted.double()), shifted * train_steps)


def dpm_solver(steps: int, shift: Shift, train_steps: int, sigmas: Sequence[float] | None = None) -> Times:
    """DPMSolverMultistepScheduler with use_flow_sigmas.

    Raises:
        ValueError: sigmas given by the caller, which it does not take.
    """
    if sigmas is not None:
        raise ValueError("expected no sigmas for compatible='dpm-solver++', which takes none, got some; drop them")
    u = 1 - np.linspace(1, 1 / train_steps, steps + 1)[:0:-1]
    return _cut(shift(u), train_steps)


def unipc(steps: int, shift: Shift, train_steps: int, sigmas: Sequence[float] | None = None) -> Times:
    """UniPCMultistepScheduler with use_flow_sigmas; sigmas given by the caller are shifted."""
    if sigmas is None:
        u = np.linspace(1, 1 / train_steps, steps + 1)[:-1]
    else:
        u = np.array(sigmas, np.float64)
    shifted = shift(u)
    if abs(float(shifted[0]) - 1) < NEAR_ONE:
        shifted[0] -= NEAR_ONE
    return _cut(shifted, train_steps)


COMPATIBLE: Mapping[str, Callable[[int, Shift, int, Sequence[float] | None], Times]] = MappingProxyType(
    {"flow-match-euler": flow_match_euler, "dpm-solver++": dpm_solver, "unipc": unipc}
)
"""Grids by the name of the method that diffusers runs on them."""

LOWERED_BELOW = 15
"""diffusers' DPM-Solver++ lowers the order of its last steps only in runs of fewer steps than this."""


def dynamic_shift(mu: float, kind: str) -> float:
    """The factor of a shift by image size: e^mu, or mu itself (`time_shift_type` "exponential" or "linear").

    Raises:
        ValueError: another kind.
    """
    if kind == "exponential":
        return math.exp(mu)
    if kind == "linear":
        return mu
    raise ValueError(f"expected time_shift_type 'exponential' or 'linear', got {kind!r}; choose one of these")


def _to_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def _cut(sigmas: np.ndarray, train_steps: int) -> Times:
    """What DPM-Solver++ and UniPC make of sigmas: integers below, found in double precision, and the end."""
    found = torch.from_numpy(sigmas)
    return Times(_to_zero(found.float().double()), (found * train_steps).long())
