"""A DyWeight on one grid: its weights, shifted times and query times as they are while it samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.charts import Chart, NoiseChart, TimeChart
from core.schedules import EDM, Schedule
from core.solvers.learned.start_tables import ROUNDING
from core.solvers.multistep import moved_along
from core.state import Evaluation, State, VelocityField, evaluate, nfe_of, push


@dataclass(frozen=True, eq=False)
class Run:
    """A DyWeight on one grid.

    Attributes:
        chart: where the slopes are weighed.
        schedule: of the model, where the chart is that of time; None takes the field's, EDM where it says nothing.
        analytic: the first step is analytic.
        memory: slopes that a step weighs.
        times: N + 1 times () of the states: the shifted ones, and the end of the grid.
        queries: N times () that the network is told.
        weights: per step, newest first; floats, or tensors () where there is a gradient.
        gained: the same, times what makes of each slope, taken at the scaled time, one at the shifted time.
    """

    chart: Chart
    schedule: Schedule | None
    analytic: bool
    memory: int
    times: tuple[Tensor, ...]
    queries: tuple[Tensor, ...]
    weights: tuple[Sequence[float | Tensor], ...]
    gained: tuple[Sequence[float | Tensor], ...]
    order: int | None = None

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        i = state.step
        evaluation, calls = self._evaluation(field, state)
        buffer = push(evaluation, state.buffer, self.memory)
        weights = self.weights[i]
        if self._gains_apply(field):
            oldest, weights = weights[-1], self.gained[i]
            if len(buffer) > i and buffer[-1].t is not self.queries[0]:  # the analytic first slope has no scaled time
                weights = (*weights[:-1], oldest)
        reached = self.times[i + 1]
        x = self._rescaled(moved_along(self.chart, state, t_next, buffer, weights), t_next, reached)
        return State(x=x, t=reached, step=i + 1, buffer=buffer, nfe=state.nfe + calls)

    def _evaluation(self, field: VelocityField, state: State) -> tuple[Evaluation, int]:
        if state.step == 0 and state.buffer:
            return state.buffer[0], 0
        if state.step == 0 and self.analytic:
            raise ValueError(
                "expected an analytic first step, got none; these numbers have no time scale for a first evaluation: "
                "pass afs=True to core.integrate"
            )
        query = self.queries[state.step]
        return evaluate(field, self._rescaled(state.x, self.times[state.step], query), query), nfe_of(field)

    def _rescaled(self, x: Tensor, t: Tensor, t_new: Tensor) -> Tensor:
        """The state at t as one at t_new with the same y: only in the noise chart is that another x."""
        if isinstance(self.chart, TimeChart):
            return x
        return self.chart.back(self.chart.to(x, t)[0], t_new) if not torch.equal(t, t_new) else x

    def _gains_apply(self, field: VelocityField) -> bool:
        if isinstance(self.chart, NoiseChart):
            return True
        schedule = self.schedule or getattr(field, "schedule", None)
        return schedule is None or isinstance(schedule, EDM)


class Kept:
    """The last run that was found, and what it was found from."""

    def __init__(self) -> None:
        self._basis: tuple[Tensor, ...] = ()
        self._run: Run | None = None

    def run(self, *basis: Tensor, find: Callable[[], Run]) -> Run:
        """The run of these tensors; their values are compared, for a tensor does not say of every change to it."""
        if self._run is None or not all(map(_same, basis, self._basis)):
            self._basis, self._run = tuple(tensor.detach().clone() for tensor in basis), find()
        return self._run


def _same(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)


def shifted(nodes: Tensor, weights: Tensor) -> Tensor:
    """tau (N + 1,) from nodes (N + 1,) and W (N, N); exactly the nodes where rows sum to 1, up to rounding.

    tau_{i+1} = t_{i+1} + (sum_j W_ij - 1) (t_{i+1} - tau_i) is the recursion of the paper.
    """
    excess = weights.sum(1) - 1
    excess = torch.where(excess.detach().abs() <= ROUNDING, excess - excess.detach(), excess)  # 0, with its gradient
    learning = _learning(excess)
    (first, *ends), beyond = (values.unbind() if learning else values.tolist() for values in (nodes, excess))
    tau = [first]
    for end, past in zip(ends, beyond, strict=True):
        tau.append(end + past * (end - tau[-1]))
    return torch.stack(tau) if learning else torch.tensor(tau, dtype=nodes.dtype, device=nodes.device)


def numbers(values: Tensor) -> Any:
    """Nested sequences of the values: floats, by which tensors are scaled faster, but where there is a gradient."""
    if not _learning(values):
        return values.tolist()
    return [row.unbind() for row in values] if values.ndim == 2 else values.unbind()


def _learning(values: Tensor) -> bool:
    return values.requires_grad and torch.is_grad_enabled()
