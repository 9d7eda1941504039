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
    """What a chart and a schedule make of fields at one time; all floats.

    Attributes:
        log_snr: log(alpha^2 / sigma^2).
        state: y over its root mean square is `state` * x.
        velocity, drift: dy/ds over its root mean square is `velocity` * dx/dt + `drift` * x.
        slope: root mean square of dy/ds.
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
    """The numbers by which an operator reads and changes states in a chart, scaled to unit order.

    A chart is linear in its fields, so what it does at a time, or from one to the next, is known from what it does to
    ones. Of x = alpha data + sigma noise it makes y = A data + S noise and dy/ds = A' data + S' noise: A and S are its
    images of the states alpha and sigma, A' and S' of these with the velocities d_alpha and d_sigma; data and noise are
    independent. The times of a grid come back in every rollout, so they are remembered; no gradient passes to them.

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
        key = float(t)
        if key not in self._nodes:
            if len(self._nodes) >= KEPT_TIMES:
                self._nodes.clear()
            self._nodes[key] = self._node(_double(t))
        return self._nodes[key]

    def between(self, t: Tensor, t_next: Tensor) -> Move:
        key = float(t), float(t_next)
        if key not in self._moves:
            if len(self._moves) >= KEPT_TIMES:
                self._moves.clear()
            self._moves[key] = move(self.chart, t, t_next)
        return self._moves[key]

    def _node(self, t: Tensor) -> Node:
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        signal = self.schedule(t)
        data = Evaluation(t, signal.alpha, signal.d_alpha)
        noise = Evaluation(t, signal.sigma, signal.d_sigma)
        state, slope = (
            math.hypot(self.data_std * float(of_data), float(of_noise))
            for of_data, of_noise in (
                (self.chart.to(data.x, t)[0], self.chart.to(noise.x, t)[0]),
                (self.chart.slope(data), self.chart.slope(noise)),
            )
        )
        return Node(
            log_snr=float(self.schedule.log_snr(t)),
            state=float(self.chart.to(one, t)[0]) / state,
            velocity=float(self.chart.slope(Evaluation(t, zero, one))) / slope,
            drift=float(self.chart.slope(Evaluation(t, one, zero))) / slope,
            slope=slope,
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
