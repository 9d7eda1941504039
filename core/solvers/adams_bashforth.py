"""Adams-Bashforth on uneven grids: the slope is the polynomial through the stored ones, integrated exactly."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.charts import Chart, TimeChart
from core.solvers.multistep import check_memory, combine, remember
from core.solvers.quadrature import MOST_NODES, lagrange_means
from core.state import Evaluation, State, VelocityField


@dataclass(frozen=True)
class AdamsBashforth:
    """One evaluation per step, extrapolated from the last `memory` of them with weights exact for uneven steps.

    Started with `memory` evaluations on an exact solution it converges with order `memory`; started from one, as in
    sampling, the first step is Euler's, its error of second order stays, and so `order` is min(memory, 2) however many
    evaluations are used. The first steps use as many as there are; `Started` has a better start. Where s ends at
    infinity (data chart, last step to sigma = 0) no polynomial has a mean, and the newest slope is used alone, as
    DPM-Solver++ does.

    In the time chart it is iPNDM with exact weights ("iPNDM_v"), in the noise chart of VP the zAB method, in the data
    chart a relative of DPM-Solver++ multistep.

    `reference_compatible` gives the numbers published as iPNDM_v, whose code has a parenthesis in the wrong place at
    orders 3 and 4, and more (see `published_weights`): of order 2 with four evaluations even after a good start, and
    on a rough grid of order 2 with three and of none with four.

    Attributes:
        memory: 1 to 4, the nominal order.
        chart: where the polynomial lives.
        reference_compatible: see above.
    """

    memory: int
    chart: Chart = field(default_factory=TimeChart)
    reference_compatible: bool = False

    def __post_init__(self) -> None:
        check_memory(self.memory)

    @property
    def order(self) -> int:
        return min(self.memory, 2)

    @property
    def started_order(self) -> int:
        return 2 if self.reference_compatible and self.memory == MOST_NODES else self.memory

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        buffer, calls = remember(field, state, self.memory)
        return combine(self.chart, state, t_next, buffer, self._weights(buffer, t_next), calls)

    def _weights(self, buffer: tuple[Evaluation, ...], t_next: Tensor) -> Tensor | tuple[float]:
        end = self.chart.coordinate(t_next)
        if len(buffer) == 1 or not bool(torch.isfinite(end).all()):
            return (1.0,)
        # times may be one a sample, (B, 1, ..., 1): those that a predictor chose
        nodes = torch.stack(torch.broadcast_tensors(*(self.chart.coordinate(e.t) for e in buffer), end)[:-1])
        weights = (published_weights if self.reference_compatible else lagrange_means)(nodes, nodes[0], end)
        return weights.to(buffer[0].x) if weights.ndim > 1 else weights  # those a sample would promote the state


def published_weights(nodes: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The weights of diff-sampler's iPNDM_v: those of `lagrange_means` in Newton's form, with three slips.

    Let h0 be the step and h1, h2, h3 the ones before. Order 3 adds a multiple of the second difference of the slopes,
    (1 - q) R / 2, where the code has (1 - q R) / 2; order 4 adds one of the third difference with + p for - p, and in
    that difference h1 / h2 stands for h2 / h3, so that the weights do not even sum to 1. Two evaluations are weighed
    exactly, three wherever steps are even.

    Args:
        nodes: (K, *shape), newest first, K <= 4.
        start, end: ends of the step of that shape, () for one; start is nodes[0].

    Returns:
        Weights of the shape of the nodes.
    """
    one, zero = torch.ones_like(start), torch.zeros_like(start)
    h0, h = end - start, -nodes.diff(dim=0)
    rows = [torch.stack([one, zero, zero, zero])]
    if len(nodes) > 1:
        rows.append(h0 / h[0] / 2 * torch.stack([one, -one, zero, zero]))
    if len(nodes) > 2:
        q, ratio = h0 / (3 * (h0 + h[0])), h[0] / h[1]
        r = h0 * (h0 + h[0]) / (h[0] * (h[0] + h[1]))
        rows.append((1 - q * r) / 2 * torch.stack([one, -1 - ratio, ratio, zero]))
    if len(nodes) > 3:
        p = (1 - h0 / (h0 + h[0]) / 2) * h0 / (h0 + h[0] + h[1]) / 6
        r = r * (h0 + h[0] + h[1]) / h.sum(0)
        g = h[0] * (h[0] + h[1]) / (h[1] * (h[1] + h[2]))
        third = torch.stack([one, -1 - ratio - g, ratio + g * (1 + h[1] / h[2]), -g * ratio])
        rows.append(((1 - q) / 2 + p) * r * third)
    return torch.stack(rows).sum(0)[: len(nodes)]
