"""Velocity fields: a frozen network with its schedule, conditioning and guidance bound, seen by solvers as dx/dt.

A network is any callable of (x (B, *space), time ()) with a result of the shape of x; the time comes in the precision
of x and on its device. The answer is kept in the precision of x, so that a network in bfloat16 does not degrade the
state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from core.parametrizations import Conversion, Target
from core.schedules import EDM, RectifiedFlow, Schedule, Signal
from core.state import nfe_of

Network = Callable[[Tensor, Tensor], Tensor]


class ScheduledField(ABC):
    """What all fields with a schedule share: the analytic velocity at the noise end.

    There the noise is taken to be the state scaled to unit variance, x / sqrt(alpha^2 + sigma^2), for data of unit
    variance, and the data to be what remains; in EDM that is dx/dt = x / sqrt(1 + t^2). It commutes with the
    rescaling of a VP model to a variance-exploding one.
    """

    schedule: Schedule

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor) -> Tensor: ...

    def analytic_velocity(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma, d_alpha, d_sigma = self.schedule(t)
        norm = (alpha**2 + sigma**2).sqrt()
        data, noise = alpha / (norm * (norm + sigma)), 1 / norm
        return (d_alpha * data + d_sigma * noise) * x


@dataclass(frozen=True)
class DenoiserField(ScheduledField):
    """EDM: velocity (x - D(x, sigma)) / sigma (Karras et al. 2022, eq. 3), in the clock t = sigma.

    Attributes:
        denoiser: (x, sigma) -> expected data.
        evaluations_per_call: network calls per sample inside one call of the denoiser.
    """

    denoiser: Network
    evaluations_per_call: int = 1
    schedule: ClassVar[Schedule] = EDM()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        data = self.denoiser(x, t.to(x)).to(x.dtype)
        return (x - data).mul_(t.reciprocal())


@dataclass(frozen=True)
class PredictionField(ScheduledField):
    """A network told the schedule's `network_time`; subclasses say what it predicts.

    Attributes:
        network: (x, network time) -> prediction.
        schedule: the one the network was trained with.
        evaluations_per_call: network calls per sample inside one call of the network.
    """

    network: Network
    schedule: Schedule
    evaluations_per_call: int = 1
    predicts: ClassVar[Target]
    _to_velocity: Conversion = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_to_velocity", Conversion(self.schedule, self.predicts, "velocity"))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        prediction = self.network(x, self.schedule.network_time(t).to(x)).to(x.dtype)
        return self._to_velocity(prediction, x, t)


class NoisePredictionField(PredictionField):
    """A network that predicts the noise (Ho et al. 2020, arXiv 2006.11239)."""

    predicts = "noise"


class VPredictionField(PredictionField):
    """A network that predicts v = alpha noise - sigma data (Salimans & Ho 2022, arXiv 2202.00512).

    Unlike the noise, v determines the data at any noise level, so an error of the network is not divided by alpha.
    """

    predicts = "v"


@dataclass(frozen=True)
class FlowField(ScheduledField):
    """Rectified flow: the network predicts dx/dsigma = noise - data and is told sigma.

    Attributes:
        network: (x, sigma in [0, 1]) -> noise - data.
        evaluations_per_call: network calls per sample inside one call of the network.
        schedule: a shifted clock t, where sigma is not the clock; the velocity is then dx/dsigma * dsigma/dt.
    """

    network: Network
    evaluations_per_call: int = 1
    schedule: RectifiedFlow = field(default_factory=RectifiedFlow)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        velocity = self.network(x, self.schedule.network_time(t).to(x)).to(x.dtype)
        return self.schedule(t).d_sigma * velocity


@dataclass(frozen=True)
class GuidedField(ScheduledField):
    """Classifier-free guidance: unconditional + scale * (conditional - unconditional).

    Ho & Salimans 2022, arXiv 2207.12598; scale 1 is the conditional field. Being linear in the velocity it is the same
    rule as on noise or on data. Both networks count towards NFE.
    """

    conditional: ScheduledField
    unconditional: ScheduledField
    scale: float

    @property
    def schedule(self) -> Schedule:
        return self.conditional.schedule

    @property
    def evaluations_per_call(self) -> int:
        return nfe_of(self.conditional) + nfe_of(self.unconditional)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(self.unconditional(x, t), self.conditional(x, t), self.scale)


class MixtureField(ScheduledField):
    """The exact field of an isotropic Gaussian mixture, sum_k w_k N(m_k, s_k^2 I): ground truth of tests and studies.

    At time t the state is distributed as sum_k w_k N(alpha m_k, v_k I), v_k = alpha^2 s_k^2 + sigma^2.

    Args:
        means: (K, *space).
        weights: (K,), positive; normalised here.
        std: one number, or (K,).
        schedule: EDM where not given.

    Raises:
        ValueError: shapes that do not belong together, a weight that is not positive, a negative std.
    """

    evaluations_per_call = 1

    def __init__(
        self,
        means: Tensor,
        weights: Tensor | Sequence[float],
        std: Tensor | Sequence[float] | float,
        schedule: Schedule | None = None,
    ) -> None:
        share = torch.as_tensor(weights, dtype=means.dtype, device=means.device)
        width = torch.as_tensor(std, dtype=means.dtype, device=means.device)
        if means.ndim < 2 or share.shape != means.shape[:1] or width.shape not in ((), share.shape):
            raise ValueError(
                f"expected means (K, *space), weights (K,) and std () or (K,), got {tuple(means.shape)}, "
                f"{tuple(share.shape)} and {tuple(width.shape)}; give one row per component"
            )
        if bool((share <= 0).any() or (width < 0).any()):
            raise ValueError("expected positive weights and std >= 0, got others; drop empty components")
        self.means = means
        self.log_weights = (share / share.sum()).log()
        self.std = width.expand(share.shape)
        self.schedule: Schedule = EDM() if schedule is None else schedule

    def _components(self, x: Tensor, signal: Signal) -> tuple[Tensor, Tensor, Tensor]:
        """Deviations x - alpha m_k (B, K, *space), variances v_k (K,), responsibilities (B, K)."""
        deviation = x[:, None] - signal.alpha * self.means.to(x)
        variance = (signal.alpha * self.std.to(x)) ** 2 + signal.sigma**2
        size = self.means[0].numel()
        distance = deviation.flatten(2).square().sum(-1) / variance
        logit = self.log_weights.to(x) - size / 2 * variance.log() - distance / 2
        return deviation, variance, logit.softmax(1)

    def _data(self, x: Tensor, signal: Signal, components: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        deviation, variance, share = components
        gain = signal.alpha * self.std.to(x) ** 2 / variance
        return _mix(share, self.means.to(x)[None]) + _mix(share * gain, deviation)

    def _noise(self, signal: Signal, components: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        deviation, variance, share = components
        return _mix(share * signal.sigma / variance, deviation)

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        """E[data | x] (B, *space): the perfect denoiser."""
        signal = self.schedule(t)
        return self._data(x, signal, self._components(x, signal))

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[noise | x] (B, *space)."""
        signal = self.schedule(t)
        return self._noise(signal, self._components(x, signal))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        # from both expectations, not by `convert`: nothing is divided by sigma or alpha, so both ends are finite
        signal = self.schedule(t)
        components = self._components(x, signal)
        return signal.d_alpha * self._data(x, signal, components) + signal.d_sigma * self._noise(signal, components)

    def flow(self, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """The exact solution at t_next from x (B, *space) at t, for one component or for a state of one number.

        One component keeps (x - alpha m) / sqrt(v); a state of one number keeps its cumulative probability, which is
        inverted by bisection to the last bit. No gradient passes.

        Raises:
            ValueError: several components in several dimensions have no closed form.
        """
        here, there = self.schedule(t), self.schedule(t_next)
        if len(self.means) == 1:
            deviation, variance, _ = self._components(x, here)
            variance_next = (there.alpha * self.std.to(x)) ** 2 + there.sigma**2
            return there.alpha * self.means.to(x) + (variance_next / variance).sqrt() * deviation[:, 0]
        if self.means[0].numel() != 1:
            raise ValueError(
                f"expected one component or a state of one number, got {len(self.means)} components of shape "
                f"{tuple(self.means.shape[1:])}; integrate with many steps instead"
            )
        return self._quantile(self._tails(x, here), x, there)

    def _tails(self, x: Tensor, signal: Signal) -> Tensor:
        """(2, *x.shape): log of the probability below and above x; the smaller one is exact in either tail."""
        deviation, variance, _ = self._components(x, signal)
        shape = (1, -1) + (1,) * (x.ndim - 1)
        score = deviation / variance.sqrt().view(shape)
        log_weights = self.log_weights.to(x).view(shape)
        below, above = (torch.special.log_ndtr(sign * score) + log_weights for sign in (1, -1))
        return torch.stack([below.logsumexp(1), above.logsumexp(1)])

    def _quantile(self, tails: Tensor, x: Tensor, signal: Signal) -> Tensor:
        reach = self.means.abs().max() + 40 * (self.std.max() + signal.sigma)
        low, high = torch.full_like(x, -float(reach)), torch.full_like(x, float(reach))
        for _ in range(200):
            middle = (low + high) / 2
            if bool(((middle == low) | (middle == high)).all()):
                break  # no number lies between them
            reached = self._tails(middle, signal)
            below = tails[0] < tails[1]
            too_high = torch.where(below, reached[0] > tails[0], reached[1] < tails[1])
            low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
        return (low + high) / 2


def _mix(share: Tensor, values: Tensor) -> Tensor:
    """Sum over components of share (B, K) times values (B or 1, K, *space)."""
    return (share.view(*share.shape, *(1,) * (values.ndim - 2)) * values).sum(1)
