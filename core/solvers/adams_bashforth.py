"""Adams-Bashforth on uneven grids: the slope is the polynomial through the stored ones, integrated exactly."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.charts import Chart, TimeChart
from core.solvers.multistep import check_memory, combine, remember
from core.solvers.quadrature import lagrange_means
from core.state import Evaluation, State, VelocityField


@dataclass(frozen=True)
class AdamsBashforth:
    """One evaluation per step, extrapolated from the last `memory` of them with weights exact for uneven steps.

    Started with `memory` evaluations on an exact solution it converges with order `memory`; started from one, as in
    sampling, the first step is Euler's, its error of second order stays, and so `order` is min(memory, 2) however many
    evaluations are used. The first steps use as many as there are. Where s ends at infinity (data chart, last step to
    sigma = 0) no polynomial has a mean, and the newest slope is used alone, as DPM-Solver++ does.

    In the time chart it is iPNDM with exact weights ("iPNDM_v"), in the noise chart of VP the zAB method, in the data
    chart a relative of DPM-Solver++ multistep.

    Attributes:
        memory: 1 to 4, the nominal order.
        chart: where the polynomial lives.
    """

    memory: int
    chart: Chart = field(default_factory=TimeChart)

    def __post_init__(self) -> None:
        check_memory(self.memory)

    @property
    def order(self) -> int:
        return min(self.memory, 2)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        buffer, calls = remember(field, state, self.memory)
        return combine(self.chart, state, t_next, buffer, self._weights(buffer, t_next), calls)

    def _weights(self, buffer: tuple[Evaluation, ...], t_next: Tensor) -> Tensor | tuple[float]:
        end = self.chart.coordinate(t_next)
        if len(buffer) == 1 or not torch.isfinite(end):
            return (1.0,)
        nodes = torch.stack([self.chart.coordinate(evaluation.t) for evaluation in buffer])
        return lagrange_means(nodes, nodes[0], end)
