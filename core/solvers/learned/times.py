"""Learned times of a sampling run."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MonotoneTimes(nn.Module):
    """Descending times between fixed ends from unconstrained numbers xi (S4S, arXiv 2502.17423, appendix E.1).

        tau_i = sum_(n >= i) softmax(xi)_n        t_i = t_min + (T - t_min) (tau_i - tau_N) / (tau_0 - tau_N)

    xi starts where t is the given grid, and what is added to the grid is t(xi) - t(xi at the start), so that untrained
    times are the grid to the last bit. Of the N + 1 numbers the last cancels; the paper counts it.

    Args:
        grid: (N + 1,) descending, float64.
    """

    start: Tensor
    grid: Tensor

    def __init__(self, grid: Tensor) -> None:
        super().__init__()
        gaps = -grid.diff()
        start = torch.cat([gaps.log(), gaps.log().mean()[None]])
        self.register_buffer("grid", grid.clone())
        self.register_buffer("start", start)
        self.xi = nn.Parameter(start.clone())

    def forward(self) -> Tensor:
        """(N + 1,) times."""
        moved = self._between(self.xi) - self._between(self.start)
        inner = self.grid[1:-1] + moved[1:-1]
        return torch.cat([self.grid[:1], inner, self.grid[-1:]])

    def _between(self, xi: Tensor) -> Tensor:
        gaps = xi.softmax(0)[:-1]
        tail = gaps.flip(0).cumsum(0).flip(0)  # tau - tau_N, without the subtraction
        times = self.grid[-1] + (self.grid[0] - self.grid[-1]) * tail / tail[0]
        return torch.cat([times, self.grid[-1:]])


class DecoupledTimes(nn.Module):
    """Times told to the network apart from those of the steps (the same, appendix E.2).

    t^c_i = t_i + clip(xi^c_i, -d, d) with d = `reach` times the smallest gap, the ends as they are. xi^c is kept in
    units of d, so that one learning rate serves it and other parameters, and is put back between -1 and 1 after each
    optimiser step by `constrain`: beyond the clip it would get no gradient any more. No gradient passes to d.

    Args:
        count: N + 1.
        reach: alpha of the paper, below 1/2 in order that times keep their order.
    """

    def __init__(self, count: int, reach: float) -> None:
        super().__init__()
        self.reach = reach
        self.xi = nn.Parameter(torch.zeros(count, dtype=torch.float64))

    def forward(self, times: Tensor) -> Tensor:
        """(N + 1,) times for the network."""
        most = self.reach * -times.detach().diff().max()
        shift = most * self.xi.clamp(-1, 1)
        return torch.cat([times[:1], times[1:-1] + shift[1:-1], times[-1:]])

    @torch.no_grad()
    def constrain(self) -> None:
        self.xi.clamp_(-1, 1)
