"""The classical Runge-Kutta method of order 4 in a chart (Hairer, Norsett & Wanner, Solving ODEs I, II.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from core.charts import Chart, DataChart, NoiseChart, TimeChart
from core.solvers.multistep import combine, remember
from core.state import State, VelocityField, evaluate, nfe_of


@dataclass(frozen=True)
class RK4:
    """Order 4, four evaluations per step: at its start, twice in its middle (of the chart's s), at its end.

    A step to t = 0, where most networks give no velocity (they would divide by sigma), is an Euler step, as in `Heun`:
    it costs one evaluation and ends, in the noise and the data chart, with the predicted data. A grid that ends there
    costs 4 N - 3 evaluations. With an analytic first step only the first of its four slopes is free. The buffer keeps
    the slope at the start of a step.

    Attributes:
        chart: where the slopes are taken; a chart of `core.charts`.
    """

    chart: Chart = field(default_factory=TimeChart)
    order: int = field(default=4, init=False, repr=False)
    memory: int = field(default=1, init=False, repr=False)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        buffer, calls = remember(field, state, self.memory)
        euler = combine(self.chart, state, t_next, buffer, (1.0,), calls)
        if t_next == 0:
            return euler
        middle = middle_of(self.chart, state.t, t_next)
        first = buffer[0]
        second = evaluate(field, combine(self.chart, state, middle, (first,), (1.0,), 0).x, middle)
        third = evaluate(field, combine(self.chart, state, middle, (second,), (1.0,), 0).x, middle)
        fourth = evaluate(field, combine(self.chart, state, t_next, (third,), (1.0,), 0).x, t_next)
        slopes = (first, second, third, fourth)
        x = combine(self.chart, state, t_next, slopes, (1 / 6, 1 / 3, 1 / 3, 1 / 6), 0).x
        return State(x=x, t=t_next, step=euler.step, buffer=buffer, nfe=euler.nfe + 3 * nfe_of(field))


def middle_of(chart: Chart, t: Tensor, t_next: Tensor) -> Tensor:
    """The time at which the chart's s is halfway between those of t and t_next, all ().

    Raises:
        ValueError: a chart whose s is not known to lead back to a time.
    """
    middle = (chart.coordinate(t) + chart.coordinate(t_next)) / 2
    match chart:
        case TimeChart():
            return middle
        case NoiseChart():
            return chart.schedule.time_at(middle)
        case DataChart():
            return chart.schedule.time_at(1 / middle)
    raise ValueError(
        f"expected a time, noise or data chart, got {type(chart).__name__}; RK4 has to find the time of a middle"
    )
