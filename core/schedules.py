"""Noise schedules: t -> (alpha, sigma) of x_t = alpha * data + sigma * noise, with their derivatives in t.

A schedule is the model's own clock; the discrete times of a sampling run are a grid (core.grids). Times are tensors
of any shape, or plain floats; what comes back has their shape. At t = 0 there is no noise: sigma = 0, alpha = 1.
There d_sigma of the variance-preserving schedules is infinite, since sigma grows as sqrt(t).

Sources: EDM, Karras et al. 2022 (arXiv 2206.00364); VP, Song et al. 2021 (arXiv 2011.13456), eq. 11 and appendix C;
cosine, Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 17; rectified flow, Liu et al. 2022 (arXiv 2209.03003), its
shift, Esser et al. 2024 (arXiv 2403.03206), eq. 23.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

CLOCK_TOLERANCE = 1e-6
"""In table entries: how far rounding may put a time beside the node that it means."""


class Signal(NamedTuple):
    """alpha, sigma and their derivatives in t, all of the shape of t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class Schedule(Protocol):
    """What a schedule offers. `t_max` and `t_min` are the noise end and the data end that grids take by default."""

    @property
    def t_max(self) -> float: ...

    @property
    def t_min(self) -> float: ...

    def __call__(self, t: Tensor | float) -> Signal: ...

    def time_at(self, ratio: Tensor | float) -> Tensor:
        """The time at which sigma / alpha equals `ratio`: the inverse of `ratio`."""
        ...

    def network_time(self, t: Tensor | float) -> Tensor:
        """What the network is told for time t."""
        ...

    def ratio(self, t: Tensor | float) -> Tensor:
        """sigma / alpha, from 0 at the data; infinite where alpha = 0."""
        signal = self(t)
        return signal.sigma / signal.alpha

    def log_snr(self, t: Tensor | float) -> Tensor:
        """log(alpha^2 / sigma^2), infinite at t = 0."""
        return -2.0 * self.ratio(t).log()


@dataclass(frozen=True, slots=True)
class EDM(Schedule):
    """Variance exploding in the clock t = sigma: alpha = 1."""

    t_max: float = 80.0
    t_min: float = 0.002

    def __call__(self, t: Tensor | float) -> Signal:
        t = _tensor(t)
        return Signal(torch.ones_like(t), t, torch.zeros_like(t), torch.ones_like(t))

    def time_at(self, ratio: Tensor | float) -> Tensor:
        return _tensor(ratio)

    def network_time(self, t: Tensor | float) -> Tensor:
        return _tensor(t)


class VariancePreserving(Schedule, Protocol):
    """alpha^2 + sigma^2 = 1: everything follows from log alpha."""

    def log_alpha(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """log alpha (0 at t = 0, falling) and its derivative in t."""
        ...

    def __call__(self, t: Tensor | float) -> Signal:
        log_alpha, rate = self.log_alpha(_tensor(t))
        alpha = log_alpha.exp()
        sigma = torch.expm1(2 * log_alpha).abs().sqrt()  # abs: +0 at t = 0, not -0
        return Signal(alpha, sigma, alpha * rate, -(alpha**2) * rate / sigma)


@dataclass(frozen=True, slots=True)
class VP(VariancePreserving):
    """Continuous VP with beta(t) = beta_min + t (beta_max - beta_min), t in [0, 1].

    Attributes:
        beta_min, beta_max: rates at t = 0 and t = 1.
        steps: length of the table the network was trained with; it is told (steps - 1) t.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    steps: int = 1000
    t_max: float = 1.0
    t_min: float = 1e-3

    def log_alpha(self, t: Tensor) -> tuple[Tensor, Tensor]:
        growth = self.beta_max - self.beta_min
        return -(t**2 * growth / 4 + t * self.beta_min / 2), -(t * growth + self.beta_min) / 2

    def time_at(self, ratio: Tensor | float) -> Tensor:
        # log(1 + ratio^2) = t^2 growth / 2 + t beta_min, solved without cancellation at small t
        growth = self.beta_max - self.beta_min
        level = torch.log1p(_tensor(ratio) ** 2)
        return 2 * level / (self.beta_min + (self.beta_min**2 + 2 * growth * level).sqrt())

    def network_time(self, t: Tensor | float) -> Tensor:
        return (self.steps - 1) * _tensor(t)


@dataclass(frozen=True, slots=True)
class Cosine(VariancePreserving):
    """alpha = cos(pi/2 (t + s)/(1 + s)) / cos(pi/2 s/(1 + s)), t in [0, 1].

    alpha is 0 at t = 1, where no noise prediction determines a velocity, so grids start at t = 0.9946 by default
    (Lu et al. 2022, arXiv 2206.00927, appendix D.4).
    """

    s: float = 0.008
    steps: int = 1000
    t_max: float = 0.9946
    t_min: float = 1e-3

    def _angle(self, t: Tensor | float) -> Tensor:
        return math.pi / 2 * (_tensor(t) + self.s) / (1 + self.s)

    def log_alpha(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = self._angle(t)
        rate = -math.pi / 2 / (1 + self.s) * angle.tan()
        return angle.cos().log() - self._angle(0.0).cos().log(), rate

    def time_at(self, ratio: Tensor | float) -> Tensor:
        cosine = self._angle(0.0).cos() / (1 + _tensor(ratio) ** 2).sqrt()
        return cosine.acos() * (1 + self.s) * 2 / math.pi - self.s

    def network_time(self, t: Tensor | float) -> Tensor:
        return (self.steps - 1) * _tensor(t)


@dataclass(frozen=True)
class DiscreteVP(VariancePreserving):
    """A table of M betas made continuous: alpha^2 at t_m = m/M is the product of the first m factors (1 - beta).

    log alpha is linear in t between the nodes and 0 at t = 0; the network is told the table index, M t - 1. At a node
    the derivative is that of the interval below it, into which time runs.

    Attributes:
        betas: (M,) values in (0, 1).

    Raises:
        ValueError: a beta outside (0, 1), or an empty table.
    """

    betas: tuple[float, ...] = field(repr=False)
    t_max: float = 1.0
    t_min: float = 0.0
    _log_alphas: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.betas or not all(0 < beta < 1 for beta in self.betas):
            raise ValueError("expected betas strictly between 0 and 1, got others; check the table of the model")
        steps = torch.log1p(-torch.tensor(self.betas, dtype=torch.float64)) / 2
        object.__setattr__(self, "_log_alphas", torch.cat([steps.new_zeros(1), steps.cumsum(0)]))

    @classmethod
    def linear(cls, steps: int = 1000, first: float = 1e-4, last: float = 2e-2) -> DiscreteVP:
        """beta linear in its index, as in DDPM (Ho et al. 2020, arXiv 2006.11239)."""
        return cls(tuple(torch.linspace(first, last, steps, dtype=torch.float64).tolist()))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, first: float = 1e-4, last: float = 2e-2) -> DiscreteVP:
        """sqrt(beta) linear in its index, as in latent diffusion (and in PreDiff, which names it "linear")."""
        roots = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64)
        return cls(tuple((roots**2).tolist()))

    @classmethod
    def cosine(cls, steps: int = 1000, s: float = 0.008, largest: float = 0.999) -> DiscreteVP:
        """The betas of the cosine schedule, cut at `largest`."""
        nodes = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        survival = (math.pi / 2 * (nodes + s) / (1 + s)).cos() ** 2
        return cls(tuple((1 - survival[1:] / survival[:-1]).clamp(max=largest).tolist()))

    def __len__(self) -> int:
        return len(self.betas)

    def log_alpha(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = self._log_alphas.to(t.device)
        position = t * len(self)
        above = (position.detach() - CLOCK_TOLERANCE).ceil().long().clamp(1, len(self))
        rise = (table[above] - table[above - 1]).to(t.dtype)
        return table[above - 1].to(t.dtype) + (position - (above - 1)) * rise, len(self) * rise

    def time_at(self, ratio: Tensor | float) -> Tensor:
        ratio = _tensor(ratio)
        level = -torch.log1p(ratio**2) / 2
        table = self._log_alphas.to(level)
        above = torch.searchsorted(-table, -level.detach()).clamp(1, len(self))
        part = (level - table[above - 1]) / (table[above] - table[above - 1])
        return (above - 1 + part) / len(self)

    def network_time(self, t: Tensor | float) -> Tensor:
        return len(self) * _tensor(t) - 1


@dataclass(frozen=True, slots=True)
class RectifiedFlow(Schedule):
    """sigma = shift t / (1 + (shift - 1) t), alpha = 1 - sigma, t in [0, 1].

    With shift 1 the clock is sigma itself. The network is told sigma.
    """

    shift: float = 1.0
    t_max: float = 1.0
    t_min: float = 0.0

    def __post_init__(self) -> None:
        if self.shift <= 0:
            raise ValueError(f"expected shift > 0, got {self.shift}; 1 leaves the clock as it is")

    def __call__(self, t: Tensor | float) -> Signal:
        t = _tensor(t)
        stretch = 1 + (self.shift - 1) * t
        sigma, d_sigma = self.shift * t / stretch, self.shift / stretch**2
        return Signal(1 - sigma, sigma, -d_sigma, d_sigma)

    def time_at(self, ratio: Tensor | float) -> Tensor:
        ratio = _tensor(ratio)
        return ratio / (self.shift + ratio)

    def network_time(self, t: Tensor | float) -> Tensor:
        return self(t).sigma


def _tensor(value: Tensor | float | Sequence[float]) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
