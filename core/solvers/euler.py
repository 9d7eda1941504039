"""The Euler method. In the noise chart of a schedule it is DDIM (Song et al. 2021, arXiv 2010.02502, eq. 13)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from core.charts import Chart, TimeChart
from core.solvers.multistep import combine, remember
from core.state import State, VelocityField


@dataclass(frozen=True)
class Euler:
    """Order 1, one evaluation per step, memory 1 (what it just evaluated, for those who correct it)."""

    chart: Chart = field(default_factory=TimeChart)
    order: int = field(default=1, init=False, repr=False)
    memory: int = field(default=1, init=False, repr=False)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        buffer, calls = remember(field, state, self.memory)
        return combine(self.chart, state, t_next, buffer, (1.0,), calls)
