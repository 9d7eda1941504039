"""Heun's method as in EDM's deterministic sampler (Karras et al. 2022, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from core.charts import Chart, TimeChart
from core.solvers.multistep import combine, remember
from core.state import State, VelocityField, evaluate, nfe_of


@dataclass(frozen=True)
class Heun:
    """Order 2, two evaluations per step: the mean of the slopes at both ends of an Euler step.

    A step to t = 0, where most networks give no velocity (they would divide by sigma), is an Euler step, as in EDM's
    sampler: a grid that ends there costs 2 N - 1 evaluations. With an analytic first step only the first of its two
    slopes is free. The buffer keeps the slope at the start of a step, not the trial one.
    """

    chart: Chart = field(default_factory=TimeChart)
    order: int = field(default=2, init=False, repr=False)
    memory: int = field(default=1, init=False, repr=False)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        buffer, calls = remember(field, state, self.memory)
        trial = combine(self.chart, state, t_next, buffer, (1.0,), calls)
        if t_next == 0:
            return trial
        end = evaluate(field, trial.x, t_next)
        slope = (self.chart.slope(buffer[0]) + self.chart.slope(end)).mul_(0.5)
        x = self.chart.move(state.x, state.t, t_next, slope)
        return State(x=x, t=t_next, step=trial.step, buffer=buffer, nfe=trial.nfe + nfe_of(field))
