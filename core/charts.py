"""Charts: coordinates y(s) in which the exact flow is gentle, so that one multistep method serves them all.

    time   y = x          s = t              dy/ds = velocity
    noise  y = x / alpha  s = sigma / alpha  dy/ds = noise prediction   (its Euler step is DDIM)
    data   y = x / sigma  s = alpha / sigma  dy/ds = data prediction    (its Euler step is DDIM again)

Song et al. 2021, arXiv 2010.02502, eq. 14; Lu et al. 2022, arXiv 2211.01095. A step is written so that it is finite
wherever its limit is: both exponential charts reach sigma = 0, although s of the data chart is infinite there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from core.parametrizations import ByTime, Conversion, add_scaled
from core.schedules import Schedule
from core.state import Evaluation

SMALLEST_ALPHA = 1e-12
"""Below it a state carries no data and the noise chart does not hold it."""


class Chart(Protocol):
    """Coordinates of a step. x and y are (B, *space); t and s are ()."""

    def coordinate(self, t: Tensor) -> Tensor:
        """s at time t; infinite where the chart ends."""
        ...

    def to(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(y, s) of the state x at time t."""
        ...

    def back(self, y: Tensor, t: Tensor) -> Tensor:
        """The state x at time t."""
        ...

    def slope(self, evaluation: Evaluation) -> Tensor:
        """dy/ds where the field was evaluated."""
        ...

    def move(self, x: Tensor, t: Tensor, t_next: Tensor, slope: Tensor) -> Tensor:
        """The state at t_next when dy/ds stays at `slope` on the way from x at t."""
        ...


@dataclass(frozen=True, slots=True)
class TimeChart:
    """x against t: the natural one for EDM (where it is the noise chart) and for rectified flow."""

    def coordinate(self, t: Tensor) -> Tensor:
        return t

    def to(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x, t

    def back(self, y: Tensor, t: Tensor) -> Tensor:
        return y

    def slope(self, evaluation: Evaluation) -> Tensor:
        return evaluation.velocity

    def move(self, x: Tensor, t: Tensor, t_next: Tensor, slope: Tensor) -> Tensor:
        return torch.addcmul(x, slope, t_next - t)


@dataclass(frozen=True, slots=True)
class NoiseChart:
    """x / alpha against sigma / alpha: a VP model seen as its variance-exploding rescaling."""

    schedule: Schedule
    _to_noise: Conversion = field(init=False, repr=False, compare=False)
    _move: ByTime = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_to_noise", Conversion(self.schedule, "velocity", "noise"))
        object.__setattr__(self, "_move", ByTime(partial(_move_in_noise, self.schedule)))

    def coordinate(self, t: Tensor) -> Tensor:
        return self.schedule.ratio(t)

    def to(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        signal = self.schedule(t)
        return x / signal.alpha, signal.sigma / signal.alpha

    def back(self, y: Tensor, t: Tensor) -> Tensor:
        return self.schedule(t).alpha * y

    def slope(self, evaluation: Evaluation) -> Tensor:
        return self._to_noise(evaluation.velocity, evaluation.x, evaluation.t)

    def move(self, x: Tensor, t: Tensor, t_next: Tensor, slope: Tensor) -> Tensor:
        """x' = (alpha'/alpha) x + (sigma' - sigma alpha'/alpha) noise.

        Raises:
            ValueError: there is no data in x: alpha = 0.
        """
        scale, gain = self._move(t, t_next)
        return add_scaled(scale * x, slope, gain)


@dataclass(frozen=True, slots=True)
class DataChart:
    """x / sigma against alpha / sigma: defined at alpha = 0; s grows to infinity towards the data."""

    schedule: Schedule
    _to_data: Conversion = field(init=False, repr=False, compare=False)
    _move: ByTime = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_to_data", Conversion(self.schedule, "velocity", "data"))
        object.__setattr__(self, "_move", ByTime(partial(_move_in_data, self.schedule)))

    def coordinate(self, t: Tensor) -> Tensor:
        return 1 / self.schedule.ratio(t)

    def to(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        signal = self.schedule(t)
        return x / signal.sigma, signal.alpha / signal.sigma

    def back(self, y: Tensor, t: Tensor) -> Tensor:
        return self.schedule(t).sigma * y

    def slope(self, evaluation: Evaluation) -> Tensor:
        return self._to_data(evaluation.velocity, evaluation.x, evaluation.t)

    def move(self, x: Tensor, t: Tensor, t_next: Tensor, slope: Tensor) -> Tensor:
        """x' = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) data."""
        scale, gain = self._move(t, t_next)
        return add_scaled(scale * x, slope, gain)


def _move_in_noise(schedule: Schedule, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
    here, there = schedule(t), schedule(t_next)
    if bool((here.alpha < SMALLEST_ALPHA).any()):
        raise ValueError(
            f"expected alpha > 0 at the start of a step in the noise chart, got 0 at t = {float(t.max())}; "
            "start the grid below or work in the data or the time chart"
        )
    scale = there.alpha / here.alpha
    return scale, there.sigma - here.sigma * scale


def _move_in_data(schedule: Schedule, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
    here, there = schedule(t), schedule(t_next)
    scale = there.sigma / here.sigma
    return scale, there.alpha - here.alpha * scale
