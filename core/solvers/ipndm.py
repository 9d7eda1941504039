"""iPNDM: Adams-Bashforth with the weights of an even grid, whatever the grid (Zhang & Chen 2022, arXiv 2204.13902)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from core.charts import Chart, TimeChart
from core.solvers.multistep import check_memory, combine, remember
from core.state import State, VelocityField

WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Adams-Bashforth weights of one to four evaluations at even steps, newest first."""


@dataclass(frozen=True)
class IPNDM:
    """One evaluation per step, fixed weights over the last `memory` of them; the first steps use as many as there are.

    `order` is min(memory, 2): on an even grid the Euler start sets it, as for Adams-Bashforth; on a grid whose steps
    vary smoothly (neighbouring steps differ by O(1/N)) the weights are off by O(1/N), which costs second-order terms
    too. On a grid whose steps vary roughly it is only of order 1.

    Attributes:
        memory: 1 to 4, the nominal order.
        chart: where the slopes are taken.
    """

    memory: int
    chart: Chart = field(default_factory=TimeChart)

    def __post_init__(self) -> None:
        check_memory(self.memory)

    @property
    def order(self) -> int:
        return min(self.memory, 2)

    @property
    def started_order(self) -> int:
        return self.order

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        buffer, calls = remember(field, state, self.memory)
        return combine(self.chart, state, t_next, buffer, WEIGHTS[len(buffer) - 1], calls)
