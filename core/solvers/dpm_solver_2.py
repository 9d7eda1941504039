"""DPM-Solver-2, the single-step method of order 2 (Lu et al. 2022, arXiv 2206.00927, algorithm 4)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.charts import Chart, NoiseChart, TimeChart
from core.schedules import EDM, Schedule
from core.solvers.multistep import combine, remember
from core.state import State, VelocityField, evaluate, nfe_of


@dataclass(frozen=True)
class DPMSolver2:
    """Order 2, two evaluations per step: at its start and at a point within, from which the slope is extrapolated.

    With the ratio sigma / alpha equal to a at the start and b at the end, the point is where it is b^r a^(1 - r): r of
    the way in log-SNR. An Euler (DDIM) step leads there, and the slopes d at the start and d' at the point give the
    step in the noise chart along d' / (2 r) + (1 - 1 / (2 r)) d.

    A step to zero noise, whose log-SNR is infinite, is an Euler step and ends with the predicted data: a grid that ends
    there costs 2 N - 1 evaluations. With an analytic first step only the first of its two slopes is free. The buffer
    keeps the slope at the start of a step.

    Attributes:
        r: place of the inner point, in (0, 1]; 1 is a Heun step.
        schedule: of the model; it needs data in the state, alpha > 0, at the start.

    Raises:
        ValueError: r outside (0, 1].
    """

    r: float = 0.5
    schedule: Schedule = field(default_factory=EDM)
    order: int = field(default=2, init=False, repr=False)
    memory: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.r <= 1:
            raise ValueError(f"expected r in (0, 1], got {self.r}; 1/2 is the midpoint in log-SNR")

    @property
    def chart(self) -> Chart:
        """The noise chart, which in EDM is the time itself."""
        return TimeChart() if isinstance(self.schedule, EDM) else NoiseChart(self.schedule)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        chart = self.chart
        buffer, calls = remember(field, state, self.memory)
        euler = combine(chart, state, t_next, buffer, (1.0,), calls)
        a, b = chart.coordinate(state.t), chart.coordinate(t_next)
        if b == 0:
            return euler
        inner = self.schedule.time_at(inner_ratio(a, b, self.r)) if self.r < 1 else t_next
        trial = combine(chart, state, inner, buffer, (1.0,), 0)
        slopes = (evaluate(field, trial.x, inner), buffer[0])
        share = 1 / (2 * self.r)
        x = combine(chart, state, t_next, slopes, (share, 1 - share), 0).x
        return State(x=x, t=t_next, step=euler.step, buffer=buffer, nfe=euler.nfe + nfe_of(field))


def inner_ratio(a: Tensor, b: Tensor, r: float | Tensor) -> Tensor:
    """b^r a^(1 - r), of the shape of r: the same bits whether r is a float or a tensor."""
    place = torch.as_tensor(r, dtype=torch.float64)
    return b**place * a ** (1 - place)
