"""DEIS in its form tAB (Zhang & Chen 2022, arXiv 2204.13902): Adams-Bashforth whose polynomial runs in VP time."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from core.charts import Chart, NoiseChart, TimeChart
from core.clocks import VPClock
from core.schedules import EDM, DiscreteVP, Schedule
from core.solvers.multistep import check_memory, combine, remember
from core.solvers.quadrature import lagrange
from core.state import State, VelocityField

GAUSS_NODES = 64
STRETCH = 1e-4
"""Below it s is measured evenly, above by its logarithm: tau(s) is smooth there, down to s = 0."""
REFERENCE_CLOCK = VPClock(80.0, 0.002)
REFERENCE_POINTS = 10_000


class Clock(Protocol):
    """A time in which the noise prediction is smooth."""

    def time_at(self, ratio: Tensor) -> Tensor:
        """tau where sigma / alpha is `ratio`."""
        ...


@dataclass(frozen=True)
class DEIS:
    """One evaluation per step: the polynomial through the last noise predictions in VP time, integrated exactly.

    With s = sigma / alpha and y = x / alpha the flow is dy = noise ds, and noise is taken as the polynomial in tau(s)
    through the stored ones. The weights C_j = integral of L_j(tau(s)) ds are found once for a grid, to rounding, by
    Gauss-Legendre quadrature. Started from one evaluation `order` is min(memory, 2), as for Adams-Bashforth; with a
    better start (`Started`) it is `memory`.

    `reference_compatible` gives the numbers of diff-sampler, whose bugs are: tau is that of sigma in [0.002, 80]
    whatever the model's range; C_j is a sum over 10 000 points from end to end, multiplied by the length over 10 000,
    although there are 9999 intervals and each end has half a share: an error of some 1e-4. (Its Euler step at the
    start, with an exact weight, is no bug: one evaluation allows no other.)

    Attributes:
        memory: 1 to 4, the nominal order.
        schedule: of the model. Its own time is tau; for EDM tau is the time of the VP schedule through its `t_max` and
            `t_min`.
        reference_compatible: see above.
    """

    memory: int
    schedule: Schedule = field(default_factory=EDM)
    reference_compatible: bool = False

    def __post_init__(self) -> None:
        check_memory(self.memory)

    @property
    def order(self) -> int:
        return min(self.memory, 2)

    @property
    def started_order(self) -> int:
        return self.memory

    @property
    def chart(self) -> Chart:
        return TimeChart() if isinstance(self.schedule, EDM) else NoiseChart(self.schedule)

    @property
    def clock(self) -> Clock:
        if self.reference_compatible:
            return REFERENCE_CLOCK
        return VPClock(self.schedule.t_max, self.schedule.t_min) if isinstance(self.schedule, EDM) else self.schedule

    def plan(self, grid: Tensor) -> Tabulated:
        """This solver with the weights of every step of the grid (N + 1,) in a table."""
        s = self.chart.coordinate(grid)
        return Tabulated(
            self, tuple(self.weights(s[: i + 1][-self.memory :].flip(0), s[i + 1]) for i in range(len(s) - 1))
        )

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        buffer, calls = remember(field, state, self.memory)
        nodes = torch.stack([self.chart.coordinate(evaluation.t) for evaluation in buffer])
        weights = self.weights(nodes, self.chart.coordinate(t_next))
        return combine(self.chart, state, t_next, buffer, weights, calls)

    def weights(self, nodes: Tensor, end: Tensor) -> Tensor:
        """C_j / (end - start): weights (K,) of the noise predictions at sigma / alpha = `nodes`, newest first.

        Args:
            nodes: (K,) distinct; the step starts at the first.
            end: () where the step ends.
        """
        if len(nodes) == 1:
            return torch.ones_like(nodes)
        tau, length = self.clock.time_at(nodes), end - nodes[0]
        if self.reference_compatible:
            points = torch.linspace(float(tau[0]), float(self.clock.time_at(end)), REFERENCE_POINTS, dtype=tau.dtype)
            pace = REFERENCE_CLOCK.pace(points) * (points[-1] - points[0]) / REFERENCE_POINTS / length
        else:
            s, ds = _gauss_legendre(nodes[0], end, self._kinks)
            points, pace = self.clock.time_at(s), ds / length
        return pace @ lagrange(tau, points)

    @property
    def _kinks(self) -> Tensor:
        """Values of s at which tau(s) is not smooth: the nodes of a table."""
        if not isinstance(self.schedule, DiscreteVP):
            return torch.empty(0, dtype=torch.float64)
        return self.schedule.ratio(torch.arange(1, len(self.schedule), dtype=torch.float64) / len(self.schedule))


@dataclass(frozen=True)
class Tabulated:
    """`method` on one grid: the weights of each step are in `table`."""

    method: DEIS
    table: tuple[Tensor, ...]

    @property
    def order(self) -> int:
        return self.method.order

    @property
    def started_order(self) -> int:
        return self.method.started_order

    @property
    def memory(self) -> int:
        return self.method.memory

    @property
    def chart(self) -> Chart:
        return self.method.chart

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        buffer, calls = remember(field, state, self.memory)
        return combine(self.chart, state, t_next, buffer, self.table[state.step], calls)


_rule = cache(leggauss)


def _gauss_legendre(start: Tensor, end: Tensor, kinks: Tensor) -> tuple[Tensor, Tensor]:
    """Points and shares of an integral over s from start down to end, exact for what is smooth between kinks.

    With s = STRETCH sinh(w) it runs evenly in log s, and yet to s = 0; the nearest singularities of tau(s) are at
    imaginary s, which is pi / 2 away in w.
    """
    ends = torch.cat([start[None], kinks[(kinks < start) & (kinks > end)].flip(0), end[None]])
    w = (ends / STRETCH).asinh()
    x, share = (torch.from_numpy(values) for values in _rule(GAUSS_NODES))
    middle, half = (w[:-1] + w[1:])[:, None] / 2, w.diff()[:, None] / 2
    points = middle + half * x
    return STRETCH * points.sinh().flatten(), (STRETCH * points.cosh() * half * share).flatten()
