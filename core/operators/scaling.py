"""What residual operators know of a solver's coordinates: the chart, and how large a state and a slope are in it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from core.charts import Chart, TimeChart
from core.schedules import Schedule
from core.state import Evaluation, Solver

KEPT_TIMES = 4096
"""Times whose scales are remembered before all are forgotten: grids repeat, grids drawn at random need not pile up."""


def chart_of(solver: Solver) -> Chart:
    """Coordinates in which `solver` advances: its own `chart`, else the state against time."""
    return getattr(solver, "chart", TimeChart())


def schedule_of(chart: Chart) -> Schedule:
    """Schedule that a chart carries.

    Raises:
        ValueError: the chart is one of time alone and knows no schedule.
    """
    schedule = getattr(chart, "schedule", None)
    if schedule is None:
        raise ValueError(
            f"expected a schedule to scale the operator's input by, got none in {type(chart).__name__}; give one, "
            "e.g. schedule=EDM()"
        )
    return schedule


class Node(NamedTuple):
    """What brings fields at one time to unit order; all floats.

    Attributes:
        log_snr: log(alpha^2 / sigma^2).
        state: the state is `state` * x.
        velocity, drift: the velocity, less what x tells of it, is `velocity` * dx/dt + `drift` * x.
        slope: dy/ds of the chart, less what x tells of it, is `slope` times that.
    """

    log_snr: float
    state: float
    velocity: float
    drift: float
    slope: float


class Move(NamedTuple):
    """A step in a chart, of `length` in s: x' = `keep` * x + `gain` * dy/ds, where `keep` * x has the y of x."""

    keep: float
    gain: float
    length: float


class Scaling:
    """The numbers by which an operator reads and changes states in a chart.

    They are EDM's preconditioning (Karras et al. 2022, appendix B.6), for any schedule. Let x = alpha data + sigma
    noise, dx/dt = d_alpha data + d_sigma noise, data of variance s^2 independent of the noise, n^2 = alpha^2 s^2 +
    sigma^2 and w = d_sigma alpha - d_alpha sigma. Then x / n has unit variance; the best linear guess of the data is
    alpha s^2 / n^2 x, with error (sigma s / n) f of unit variance f; and dx/dt is linear in x plus (w s / n) (-f). Raw
    slopes will not do: at high noise they are x but for a small part, and that part is what is to be known and
    corrected.

    A chart is linear in its fields too, so what it does to them is known from what it does to ones. The times of a grid
    come back in every rollout, so all is remembered; no gradient passes to times.

    Args:
        chart: coordinates of the solver.
        schedule: of the model.
        data_std: standard deviation of the data.
    """

    def __init__(self, chart: Chart, schedule: Schedule, data_std: float) -> None:
        self.chart = chart
        self.schedule = schedule
        self.data_std = data_std
        self._nodes: dict[float, Node] = {}
        self._moves: dict[tuple[float, float], Move] = {}

    def at(self, t: Tensor) -> Node:
        t = t.detach()
        key = float(t)
        if key not in self._nodes:
            if len(self._nodes) >= KEPT_TIMES:
                self._nodes.clear()
            self._nodes[key] = self._node(_double(t))
        return self._nodes[key]

    def between(self, t: Tensor, t_next: Tensor) -> Move:
        t, t_next = t.detach(), t_next.detach()
        key = float(t), float(t_next)
        if key not in self._moves:
            if len(self._moves) >= KEPT_TIMES:
                self._moves.clear()
            self._moves[key] = move(self.chart, t, t_next)
        return self._moves[key]

    def _node(self, t: Tensor) -> Node:
        alpha, sigma, d_alpha, d_sigma = (float(value) for value in self.schedule(t))
        s = self.data_std
        n = math.hypot(alpha * s, sigma)
        w = d_sigma * alpha - d_alpha * sigma
        unit = torch.ones_like(t)
        return Node(
            log_snr=float(self.schedule.log_snr(t)) if alpha > 0 else -math.inf,  # learned times may pass pure noise
            state=1 / n,
            velocity=n / (w * s),
            drift=-(d_sigma / w - alpha * s**2 / n**2) * n / (sigma * s),
            slope=float(self.chart.slope(Evaluation(t, 0 * unit, unit))) * w * s / n,
        )


def move(chart: Chart, t: Tensor, t_next: Tensor) -> Move:
    """The numbers of a step from t to t_next; the first two are finite at sigma = 0, where the chart's s may not be."""
    t, t_next = _double(t), _double(t_next)
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    return Move(
        keep=float(chart.move(one, t, t_next, zero)),
        gain=float(chart.move(zero, t, t_next, one)),
        length=float(chart.coordinate(t_next) - chart.coordinate(t)),
    )


def _double(t: Tensor) -> Tensor:
    return t.detach().double().cpu()
