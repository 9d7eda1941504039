"""Bespoke non-stationary solvers (Shaul et al. 2024, arXiv 2403.01329)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.charts import Chart
from core.solvers.learned.base import Learned
from core.solvers.learned.increments import Band, StudentConfig, gain, nudge, planned, staged
from core.solvers.learned.times import MonotoneTimes
from core.state import Evaluation, State, VelocityField, push, trajectory


class NonStationary(Learned):
    """n evaluations, each weighed in all states after it, with weights and times of its own:

        x_(i+1) = a_i x_0 + sum_(j <= i) b_ij u_j,        u_j = velocity(x_j, t_j),        i < n

    and t_0 > ... > t_n with fixed ends: n (n + 5) / 2 + 1 numbers, all trained together. x_n is the sample; the
    coefficients do not depend on the times, which only say where the network is asked. `coefficients` gives a and b.

    Ours, for want of public code: a row is the base's plus learned additions in units of the base's step,
    gain (da_i x_0 / t_0 + sum_j db_ij u_j), which spans the same family and is the base to the last bit at first; times
    are `MonotoneTimes`; u_j is the slope of the base's chart, the velocity for EDM and flows. The paper's rescaling of
    the path to another sigma_0 is left out. Base: Euler, n = N; "dpm-solver-2" with r = 1/2 is the midpoint method,
    n = 2 N, whose inner evaluations are rows of their own; and whatever asks at falling times.

    Raises:
        ValueError: the base asks twice at one time, as Heun does, or not at the starts of steps.
    """

    kind = "bns"

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        asked = config.query_times()
        times = torch.stack([t for step in asked for t in step] + [config.grid[-1]])
        starts = torch.stack([step[0] for step in asked if step])
        if not bool((times.diff() < 0).all()) or not torch.equal(starts, config.grid[:-1]):
            raise ValueError(
                f"expected a base that asks at falling times, first at the start of each step, for {self.kind!r}, got "
                f"{type(config.base).__name__}; use core.build_solver('euler') or 'dpm-solver-2'"
            )
        self.base = planned(config)
        self.chart: Chart = config.chart
        self.evaluations = len(times) - 1
        self.first = [sum(map(len, asked[:step])) for step in range(config.steps)]
        self.times = MonotoneTimes(times)
        self.start = nn.Parameter(torch.zeros(self.evaluations, dtype=torch.float64))
        self.weights = Band(self.evaluations, self.evaluations)

    @property
    def memory(self) -> int:
        return self.evaluations

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        first, times = self.first[state.step], self.times()
        unit = gain(self.chart, state.t, t_next)

        def row(index: int, x: Tensor, seen: Sequence[Evaluation]) -> Tensor:
            """x with the additions of row `index`, from all evaluations before it."""
            history = (*reversed(seen), *(e for e in state.buffer if e is not seen[0]))
            x_0 = history[-1].x / self.config.grid[0]
            x = nudge(x, unit, (self.start[index],), (x_0,))
            return nudge(x, unit, self.weights[index], map(self.chart.slope, history))

        def place(stage: int, x: Tensor, t: Tensor, seen: Sequence[Evaluation]) -> tuple[Tensor, Tensor]:
            return (row(first + stage - 1, x, seen) if stage else x), times[first + stage]

        after, seen = staged(self.base, self.chart, field, state, t_next, place)
        buffer = state.buffer
        for evaluation in seen:
            buffer = push(evaluation, buffer, self.memory)
        return replace(after, x=row(first + len(seen) - 1, after.x, seen), buffer=buffer)

    @torch.no_grad()
    def coefficients(self) -> tuple[Tensor, Tensor]:
        """a (N,) and b (N, n) of the states at the grid's nodes after the first, found by running it on a basis."""
        basis = torch.eye(self.evaluations + 1, dtype=torch.float64)
        asked = iter(basis[1:])

        def field(x: Tensor, t: Tensor) -> Tensor:
            return next(asked)[None]

        states = [state.x[0] for state in trajectory(field, self, basis[:1], self.config.grid)]
        table = torch.stack(states[1:])
        return table[:, 0], table[:, 1:]
