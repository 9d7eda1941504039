"""S4S, single step (Frankel et al. 2025, arXiv 2502.17423, table 1 and appendix H.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.charts import Chart
from core.solvers.learned.base import Learned
from core.solvers.learned.increments import StudentConfig, gain, nudge, planned, staged
from core.state import Evaluation, State, VelocityField, push


class S4SSingleStep(Learned):
    """A Runge-Kutta method of k stages whose coefficients are learned for every step i, without any constraint.

        x_i = (alpha_i / alpha_(i-1)) x_(i-1) - sigma_i (e^h_i - 1) sum_j b_(j,i) kappa_j
        kappa_j = noise(x_(i-1) + sum_(l<j) a_(j,i,l) kappa_l, t_(i-1) + c_(j,i))

    or the same of data predictions. Each is what the base does plus a learned addition: to b and a in units of the
    step's factor, to the stage's time in units of the logarithmic step, t_j (t_i / t_(i-1))^c, which keeps it positive.
    k is the base's. There are (k^2 + k - 1) N numbers, as the paper counts them: k of b, k - 1 of c, and k (k - 1) of
    a, of which those with l >= j are never read, the method being explicit.

    Raises:
        ValueError: the base does not begin its steps with an evaluation, or is a multistep method of several.
    """

    kind = "s4s-ss"

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        times = config.query_times()
        if config.base.memory != 1 or any(len(t) == 0 or t[0] != start for start, t in zip(config.grid, times)):  # noqa: B905
            raise ValueError(
                f"expected a single-step base for {self.kind!r}, got {type(config.base).__name__} of memory "
                f"{config.base.memory}; use e.g. core.build_solver('heun')"
            )
        self.base = planned(config)
        self.chart: Chart = config.chart
        self.stages = max(map(len, times))
        inner = self.stages - 1
        self.b = nn.Parameter(torch.zeros(config.steps, self.stages, dtype=torch.float64))
        self.c = nn.Parameter(torch.zeros(config.steps, inner, dtype=torch.float64))
        self.a = nn.Parameter(torch.zeros(config.steps, inner, self.stages, dtype=torch.float64))

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        i, unit = state.step, gain(self.chart, state.t, t_next)

        def place(stage: int, x: Tensor, t: Tensor, seen: Sequence[Evaluation]) -> tuple[Tensor, Tensor]:
            if stage == 0:
                return x, t
            x = nudge(x, unit, self.a[i, stage - 1], map(self.chart.slope, seen))
            return x, t * (t_next / state.t) ** self.c[i, stage - 1] if t_next > 0 else t

        after, seen = staged(self.base, self.chart, field, state, t_next, place)
        x = nudge(after.x, unit, self.b[i], map(self.chart.slope, seen))
        return replace(after, x=x, buffer=push(seen[0], state.buffer, self.memory))
