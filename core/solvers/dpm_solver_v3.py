"""DPM-Solver-v3: a multistep exponential method whose linear part is fitted to the model (Zheng et al. 2023, arXiv
2310.13268)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from core.charts import Chart, DataChart, NoiseChart
from core.model_statistics import ModelStatistics, half_log_snr
from core.parametrizations import convert
from core.schedules import EDM, Schedule
from core.solvers.multistep import remember
from core.solvers.quadrature import lagrange, lagrange_means
from core.state import Evaluation, Solver, State, VelocityField

HIGHEST_ORDER = 3
PANELS = 16
"""Even parts of a step that are integrated one by one, besides those that the statistics' nodes cut."""
GAUSS = torch.tensor([0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15)], dtype=torch.float64)
GAUSS_WEIGHTS = torch.tensor([5.0, 8.0, 5.0], dtype=torch.float64) / 18
RANGE_TOLERANCE = 1e-3
"""In lambda: how far a grid may reach beyond the statistics."""


@dataclass(frozen=True, eq=False)
class DPMSolverV3:
    """One evaluation per step; a predictor over the last `memory` evaluations and a corrector without further calls.

    With lambda = log(alpha / sigma), the model's statistics l, s, b and f = (sigma noise - l x) / alpha, it takes
    g = exp(-int s) f - int exp(-int s) b for a polynomial in lambda and integrates the rest of the flow exactly
    (equations 8 to 11). The corrector repeats the last step through the evaluation made at its end, then the next step
    is taken from there; the last state of a run is a prediction, as no evaluation follows it. Statistics (l, s, b) =
    (1, 0, 0) give the exponential multistep method for the data (DPM-Solver++ with exact integrals), (0, -1, 0) that
    for the noise; their first order is DDIM either way.

    From one evaluation the start is first-order. Corrected it is second-order, and so `order` is min(memory + 1, 3)
    with the corrector and min(memory, 2) without or with `lower_order_final`; third order asks for statistics that are
    smooth, and steps shorter than the distance of their nodes see kinks. The paper's corrector uses as many evaluations
    as the predictor (one more with "pseudo" derivatives); ours always uses one more and interpolates exactly. The paper
    also rounds times to the nodes of the statistics; here they are as given.

    A step to sigma = 0 is the data prediction.

    Attributes:
        memory: 1 to 3, the predictor's nominal order.
        statistics: of the model, covering the grid; see `core.model_statistics.estimate_statistics`.
        schedule: of the model.
        corrector: correct each state once its evaluation is there.
        lower_order_final: take at most as many evaluations as steps remain, which steadies few steps.
    """

    memory: int
    statistics: ModelStatistics
    schedule: Schedule = field(default_factory=EDM)
    corrector: bool = True
    lower_order_final: bool = True

    def __post_init__(self) -> None:
        if self.memory not in range(1, HIGHEST_ORDER + 1):
            raise ValueError(f"expected an order from 1 to {HIGHEST_ORDER}, got {self.memory}; use one of these")

    @property
    def order(self) -> int:
        reached = min(self.memory + 1, 3) if self.corrector else min(self.memory, 2)
        return min(reached, 2) if self.lower_order_final else reached

    @property
    def chart(self) -> Chart:
        return NoiseChart(self.schedule)

    def plan(self, grid: Tensor) -> Solver:
        """The coefficients for a grid.

        Raises:
            ValueError: the grid leaves the range of the statistics.
        """
        nodes = half_log_snr(self.schedule, grid.cpu())
        nodes = nodes[:-1] if nodes[-1].isinf() else nodes
        known = self.statistics.half_log_snr
        if not bool(nodes[0] > known[0] - RANGE_TOLERANCE and nodes[-1] < known[-1] + RANGE_TOLERANCE):
            raise ValueError(
                f"expected a grid within log(alpha / sigma) of [{float(known[0]):.4g}, {float(known[-1]):.4g}], as the "
                f"statistics, got [{float(nodes[0]):.4g}, {float(nodes[-1]):.4g}]; estimate them for this range"
            )
        return _Planned(self, self.statistics.at(nodes)[0], _steps(self, grid.cpu(), nodes))

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        raise ValueError(
            "expected a planned solver, got one that knows no grid; use core.integrate, core.trajectory or plan(grid)"
        )


class Rule(NamedTuple):
    """y' = keep * y - sum_j weights[j] f_j - shift; keep and shift (*space), weights (nodes, *space), newest first."""

    keep: Tensor
    weights: Tensor
    shift: Tensor


class Step(NamedTuple):
    """What a step is made of: alpha at its end, the predicting and the correcting rule."""

    alpha_next: Tensor
    predict: Rule
    correct: Rule


@dataclass(frozen=True, eq=False)
class _Planned:
    """The solver for one grid: l (nodes, *space) at the starts of its steps, and the steps, without one to sigma = 0
    where there is such."""

    method: DPMSolverV3
    linear: Tensor
    steps: tuple[Step, ...]

    @property
    def order(self) -> int:
        return self.method.order

    @property
    def memory(self) -> int:
        return self.method.memory

    @property
    def chart(self) -> Chart:
        return self.method.chart

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        """The state predicted at `t_next`, from the state corrected where it is.

        Raises:
            ValueError: statistics of states of another shape.
        """
        if state.step == 0:
            self.method.statistics.check(state.x)
        seen, calls = remember(field, state, self.memory + 1)
        x = self._corrected(state, seen) if self.method.corrector and state.step else state.x
        buffer = seen[: self.memory]
        if state.step == len(self.steps):
            chart = DataChart(self.method.schedule)
            x = chart.move(x, state.t, t_next, chart.slope(buffer[0]))
        else:
            rule, alpha = self.steps[state.step].predict, self.method.schedule(state.t).alpha
            y = rule.keep.to(x) * (x / alpha) - self._change(rule, buffer, state.step)
            x = self.steps[state.step].alpha_next * y
        return State(x=x, t=t_next, step=state.step + 1, buffer=buffer, nfe=state.nfe + calls)

    def _corrected(self, state: State, seen: tuple[Evaluation, ...]) -> Tensor:
        """The last step again with the evaluation at its end; both rules are linear, so their difference is added."""
        last = self.steps[state.step - 1]
        before = self._change(last.predict, seen[1:], state.step - 1)
        return state.x + last.alpha_next * (before - self._change(last.correct, seen, state.step))

    def _change(self, rule: Rule, evaluations: tuple[Evaluation, ...], newest: int) -> Tensor:
        """sum_j weights[j] f_j + shift of evaluations at the nodes `newest`, `newest` - 1, ..."""
        total = rule.shift.to(evaluations[0].x)
        for age, (weight, evaluation) in enumerate(zip(rule.weights, evaluations, strict=False)):
            total = total + weight.to(evaluation.x) * self._f(evaluation, newest - age)
        return total

    def _f(self, evaluation: Evaluation, node: int) -> Tensor:
        """f = (sigma noise - l x) / alpha of an evaluation at a node of the grid."""
        signal = self.method.schedule(evaluation.t)
        noise = convert(evaluation.velocity, evaluation.x, signal, "velocity", "noise")
        return (signal.sigma * noise - self.linear[node].to(evaluation.x) * evaluation.x) / signal.alpha


class _Interval(NamedTuple):
    """Integrals over a step, from its start: at the Gauss points of all panels, growth = exp(int (l + s)), offset =
    int exp(-int s) b and the points' lambda and quadrature weights; at the end int l, int s and offset."""

    points: Tensor
    quadrature: Tensor
    growth: Tensor
    offset: Tensor
    end_l: Tensor
    end_s: Tensor
    end_offset: Tensor


def _interval(statistics: ModelStatistics, start: Tensor, end: Tensor) -> _Interval:
    """Gauss's rule on panels short enough and cut where the statistics, linear in between, have a kink."""
    known = statistics.half_log_snr
    even = start + (end - start) * torch.linspace(0, 1, PANELS + 1, dtype=torch.float64)
    cuts = torch.cat([even, known[(known > start) & (known < end)]]).unique()
    lengths = cuts.diff()
    points = cuts[:-1, None] + lengths[:, None] * GAUSS
    linear, slope, offset = (value.unflatten(0, points.shape) for value in statistics.at(points.flatten()))
    inner_l, end_l = _running(linear, lengths)
    inner_s, end_s = _running(slope, lengths)
    inner_offset, end_offset = _running((-inner_s).exp() * offset, lengths)
    return _Interval(
        points=points.flatten(),
        quadrature=(lengths[:, None] * GAUSS_WEIGHTS).flatten(),
        growth=(inner_l + inner_s).exp().flatten(0, 1),
        offset=inner_offset.flatten(0, 1),
        end_l=end_l,
        end_s=end_s,
        end_offset=end_offset,
    )


def _running(values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Integrals from the first panel's start to each Gauss point (panels, 3, *space), and to the end (*space)."""
    inside = torch.stack([c * lagrange_means(GAUSS, torch.zeros_like(c), c) for c in GAUSS])
    scaled = values * lengths.view(-1, *(1,) * (values.ndim - 1))
    whole = torch.einsum("j,pj...->p...", GAUSS_WEIGHTS, scaled)
    before = whole.cumsum(0) - whole
    return before[:, None] + torch.einsum("ij,pj...->pi...", inside, scaled), whole.sum(0)


def _steps(method: DPMSolverV3, grid: Tensor, nodes: Tensor) -> tuple[Step, ...]:
    """The rules of all steps between the nodes of lambda."""
    intervals = [_interval(method.statistics, start, end) for start, end in pairwise(nodes)]
    steps = []
    for i, interval in enumerate(intervals):
        count = min(method.memory, i + 1)
        if method.lower_order_final:
            count = min(count, len(grid) - 1 - i)
        ages = range(i, i - count, -1)
        views = [_view(intervals, i, node) for node in (i + 1, *ages)]
        where = nodes[[i + 1, *ages]]
        steps.append(
            Step(
                alpha_next=method.schedule(grid[i + 1]).alpha,
                predict=_rule(interval, where[1:], views[1:]),
                correct=_rule(interval, where, views),
            )
        )
    return tuple(steps)


def _view(intervals: list[_Interval], base: int, node: int) -> tuple[Tensor, Tensor]:
    """(factor, offset) of g = factor * f - offset at a node seen from a base, exp(-int s) and int exp(-int s) b."""
    if node == base + 1:
        return (-intervals[base].end_s).exp(), intervals[base].end_offset
    factor, offset = torch.ones_like(intervals[base].end_s), torch.zeros_like(intervals[base].end_s)
    for interval in intervals[node:base]:  # one step further back at a time, from the node towards the base
        back = interval.end_s.exp()
        factor, offset = back * factor, back * (offset - interval.end_offset)
    return factor, offset


def _rule(interval: _Interval, nodes: Tensor, views: list[tuple[Tensor, Tensor]]) -> Rule:
    """Equation 11 with the polynomial through g at the nodes, solved for y = x / alpha and f."""
    keep = (-interval.end_l).exp()
    basis = lagrange(nodes, interval.points)
    weights = torch.einsum("p,pj,p...->j...", interval.quadrature, basis, interval.growth)
    shift = torch.einsum("p,p...->...", interval.quadrature, interval.growth * interval.offset)
    for weight, (_, offset) in zip(weights, views, strict=True):
        shift = shift - weight * offset
    factors = torch.stack([factor for factor, _ in views])
    return Rule(keep, keep * weights * factors, keep * shift)
