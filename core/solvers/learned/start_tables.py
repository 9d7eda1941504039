"""Weights of handcrafted linear multistep methods on one grid: the tables that learned ones start from."""

from __future__ import annotations

import torch
from torch import Tensor

from core.solvers.adams_bashforth import AdamsBashforth
from core.solvers.deis import DEIS
from core.solvers.euler import Euler
from core.solvers.ipndm import IPNDM, WEIGHTS
from core.state import Evaluation

LinearMultistep = Euler | IPNDM | AdamsBashforth | DEIS
"""Methods that move along a weighted sum of stored slopes, with weights that depend on the grid alone."""
ROUNDING = 1e-12
"""Weights whose sum is this near to 1 shift no time: it is the rounding of their sum."""


def depends_on_grid(base: LinearMultistep) -> bool:
    """Whether the weights of a method are found for the nodes of its grid."""
    return isinstance(base, AdamsBashforth | DEIS)


def table_of(base: LinearMultistep, grid: Tensor, count: int) -> Tensor:
    """W (count, count), lower-triangular, float64: W[i, j] is the weight in step i of the slope of step j.

    The first steps weigh what there is.

    Args:
        base: the method.
        grid: (count + 1,) times; not looked at where weights do not depend on it.
        count: number of steps.

    Raises:
        ValueError: rows that do not sum to 1, as those that reproduce the bugs of published codes.
    """
    table = torch.zeros(count, count, dtype=torch.float64)
    for i, newest_first in enumerate(_rows(base, grid.double(), count)):
        table[i, i + 1 - len(newest_first) : i + 1] = newest_first.flip(0)
    wrong = float((table.sum(1) - 1).abs().max())
    if wrong > ROUNDING:
        raise ValueError(
            f"expected a base whose weights sum to 1, got {base}, off by {wrong:.1e} on this grid, which would shift "
            "its times; build it without reference_compatible"
        )
    return table


def uniform_table(band: Tensor) -> Tensor:
    """All slopes of a band (N, N) weighed alike in each row."""
    return band.double() / band.sum(1, keepdim=True)


def _rows(base: LinearMultistep, grid: Tensor, count: int) -> list[Tensor]:
    """Weights of every step, newest first."""
    if isinstance(base, DEIS):
        return list(base.plan(grid).table)
    if isinstance(base, AdamsBashforth):
        nodes = [Evaluation(t, t, t) for t in grid]
        histories = [tuple(nodes[max(0, i + 1 - base.memory) : i + 1][::-1]) for i in range(count)]
        return [torch.as_tensor(base._weights(h, grid[i + 1]), dtype=grid.dtype) for i, h in enumerate(histories)]
    return [torch.tensor(WEIGHTS[min(i + 1, base.memory) - 1], dtype=grid.dtype) for i in range(count)]
