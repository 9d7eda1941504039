"""Align Your Steps: a grid that minimises a bound on the divergence between the sampled distribution and the model's
(Sabour, Fidler & Kreis 2024, arXiv 2404.14507)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from core.parametrizations import convert
from core.schedules import Schedule
from core.state import VelocityField

PLACES = 8
RESOLUTION = 0.3
"""Of the data's standard deviation."""
TABLE = 512
SWEEPS = 4
SHRINKS = 9
MARGIN = 0.02
ENOUGH = 1e-2
GOLDEN = (math.sqrt(5) - 1) / 2

Interval = Callable[[float, float], float]
"""(s, s_next) -> share of a step in the bound."""


class Divergence:
    """What a step from s down to s_next, in s = sigma / alpha, adds to the bound on the Kullback-Leibler divergence.

    The bound (KLUB) compares the reverse SDE with one whose data prediction D stays as it was at the start of each
    step (stochastic DDIM). With x = data + s noise, by Girsanov's theorem, it is the sum over the steps of

        integral from s_next to s of E |D(x_r, r) - D(x_s, s)|^2 / r^3 dr,

    x_s being x_r with more noise. Importance sampling: r is spread with the density that the integrand has for Gaussian
    data of the same variance c^2, (s^2 - r^2) / ((c^2 + r^2) r^3), for which the estimate is exact. Ours: r at the
    middle quantiles of that density, not at random, and the same random numbers for all steps, so that it is a
    smooth, reproducible function of the times.

    Ours, too: below `resolution` nothing counts, r stays above it, which bounds the divergence between distributions
    with that much noise. The full bound divides every error by the noise that is left; as sigma_min is far below what
    can be seen, its minimum spends nearly all steps there, and samples get worse.

    Args:
        field: the model.
        schedule: its noise schedule.
        data: (B, *space), samples, all evaluated at once.
        seed: of the noise.
        resolution: in sigma / alpha; 0.3 standard deviations of the data where not given.

    Raises:
        ValueError: fewer than two samples, or samples that are all alike.
    """

    def __init__(
        self, field: VelocityField, schedule: Schedule, data: Tensor, seed: int, resolution: float | None = None
    ) -> None:
        if len(data) < 2 or not float(data.std()) > 0:
            raise ValueError(f"expected two samples of data or more, that differ, got {len(data)}; draw some")
        generator = torch.Generator().manual_seed(seed)
        self.field, self.schedule, self.data = field, schedule, data
        self.noise, self.bridge = (
            torch.randn(data.shape, generator=generator, dtype=torch.float64).to(data) for _ in range(2)
        )
        self.variance = float(data.double().var())
        self.resolution = RESOLUTION * self.variance**0.5 if resolution is None else resolution

    @torch.no_grad()
    def __call__(self, s: float, s_next: float) -> float:
        if s <= self.resolution:
            return 0.0
        held = self._predict(self.data + s * self.noise, s)
        places, mass = self._places(s, max(s_next, self.resolution))
        total = 0.0
        for r in places:
            part = (r / s) ** 2
            x = self.data + part * s * self.noise + r * math.sqrt(1 - part) * self.bridge
            change = (self._predict(x, r) - held).double().flatten(1).square().sum(1).mean()
            total += float(change) / self._gaussian(r, s)
        return total * mass / len(places)

    def _predict(self, x: Tensor, s: float) -> Tensor:
        t = self.schedule.time_at(s)
        signal = self.schedule(t)
        state = signal.alpha * x
        return convert(self.field(state, t).to(x), state, signal, "velocity", "data")

    def _gaussian(self, r: float, s: float) -> float:
        """E |D(x_r, r) - D(x_s, s)|^2 of Gaussian data, but for a factor."""
        return (s**2 - r**2) / (self.variance + r**2)

    def _places(self, s: float, s_next: float) -> tuple[list[float], float]:
        """The middle quantiles of the density on [s_next, s], and its integral."""
        log_r = torch.linspace(math.log(s_next), math.log(s), TABLE, dtype=torch.float64)
        square = (2 * log_r).exp()
        density = (s**2 - square).clamp(min=0) / ((self.variance + square) * square)  # in log r
        mass = torch.cat([density.new_zeros(1), torch.cumulative_trapezoid(density, log_r)])
        wanted = (torch.arange(PLACES, dtype=torch.float64) + 0.5) / PLACES * mass[-1]
        above = torch.searchsorted(mass, wanted).clamp(1, TABLE - 1)
        part = (wanted - mass[above - 1]) / (mass[above] - mass[above - 1])
        return torch.lerp(log_r[above - 1], log_r[above], part).exp().tolist(), float(mass[-1])


def search(share: Interval, ratio_max: float, ratio_min: float, steps: int) -> Tensor:
    """Descending sigma / alpha (steps + 1,) at which the sum of the shares of the steps is least.

    From coarse to fine: a grid of half as many steps is found first and halved evenly in log sigma / alpha. On each
    level the inner times are moved in turn by golden-section search between their neighbours. (The paper doubles grids
    of 10 steps and picks among candidates at random; this is deterministic.) With a `Divergence`, whose every value
    costs nine evaluations of all samples, five steps take some 6000.

    Args:
        share: see `Interval`, e.g. a `Divergence`.
        ratio_max, ratio_min: sigma / alpha at the ends, positive and finite.
        steps: at least 1.
    """
    sizes = [steps]
    while sizes[0] > 2:
        sizes.insert(0, (sizes[0] + 1) // 2)
    nodes = [math.log(ratio_max), math.log(ratio_min)]
    for size in sizes:
        nodes = _settled(share, _resampled(nodes, size))
    return torch.tensor(nodes, dtype=torch.float64).exp()


def _resampled(nodes: list[float], steps: int) -> list[float]:
    """The same curve through a grid at another number of steps."""
    last = len(nodes) - 1
    places = [i * last / steps for i in range(steps)]
    return [nodes[int(p)] + (p - int(p)) * (nodes[int(p) + 1] - nodes[int(p)]) for p in places] + [nodes[-1]]


def _settled(share: Interval, nodes: list[float]) -> list[float]:
    """The nodes after sweeps over the inner ones, until the sum falls no more."""
    total = math.inf
    for _ in range(SWEEPS):
        for i in range(1, len(nodes) - 1):
            nodes[i] = _best_between(share, nodes[i - 1], nodes[i], nodes[i + 1])
        before, total = total, sum(share(math.exp(a), math.exp(b)) for a, b in pairwise(nodes))
        if total > (1 - ENOUGH) * before:
            break
    return nodes


def _best_between(share: Interval, before: float, now: float, after: float) -> float:
    """Golden-section search for a node's log; the present one is kept where nothing better is found."""

    def cost(log_s: float) -> float:
        return share(math.exp(before), math.exp(log_s)) + share(math.exp(log_s), math.exp(after))

    low, high = (end + MARGIN * (other - end) for end, other in ((after, before), (before, after)))
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    of_left, of_right = cost(left), cost(right)
    for _ in range(SHRINKS):
        if of_left < of_right:
            high, right, of_right = right, left, of_left
            left = high - GOLDEN * (high - low)
            of_left = cost(left)
        else:
            low, left, of_left = left, right, of_right
            right = low + GOLDEN * (high - low)
            of_right = cost(right)
    found, of_found = (left, of_left) if of_left < of_right else (right, of_right)
    return found if of_found < cost(now) else now
