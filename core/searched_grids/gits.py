"""GITS: the nodes of a teacher's grid between which straight jumps stay nearest to its trajectories (Chen et al. 2024,
arXiv 2405.11326)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from core.charts import Chart, TimeChart
from core.state import Evaluation, Solver, VelocityField, integrate, trajectory

Metric = Literal["l1", "l2", "dev"]
METRIC: Metric = "l2"
DISCOUNT = 1.15
TEACHER_STEPS = 60


@torch.no_grad()
def search(
    field: VelocityField,
    x_T: Tensor,
    steps: int,
    grid: Tensor,
    teacher: Solver | None = None,
    metric: Metric = METRIC,
    discount: float = DISCOUNT,
    afs: bool = False,
    chart: Chart | None = None,
) -> Tensor:
    """Times (steps + 1,) chosen from the teacher's grid.

    Args:
        field: dx/dt.
        x_T: (B, *space) at grid[0].
        steps: number of steps to choose.
        grid: (M + 1,) of the teacher, M >= steps.
        teacher: iPNDM 4 in the chart where not given.
        metric: see `costs`.
        discount: see `shortest`.
        afs: whether an analytic first step will be used. The nodes are then chosen for steps - 1 jumps, and one more
            is inserted before the first of them where Euler's endpoint comes nearest to the teacher's: a node free of
            network calls.
        chart: in which the jumps are straight, that of the solver to be used; time where not given.

    Raises:
        ValueError: a teacher's grid too coarse, an unknown metric, a discount that is not positive.
    """
    jumps = steps - int(afs)
    if not 1 <= jumps <= len(grid) - 1 or metric not in get_args(Metric) or discount <= 0:
        known = ", ".join(get_args(Metric))
        raise ValueError(
            f"expected {1 + int(afs)} to {len(grid) - 1 + int(afs)} steps, a metric among {known} and a positive "
            f"discount, got {steps}, {metric!r} and {discount}; a finer teacher_grid allows more steps"
        )
    chart = TimeChart() if chart is None else chart
    run = teacher_run(field, x_T, grid, teacher or _ipndm(chart))
    chosen = shortest(costs(run, chart, metric), jumps, discount)
    if afs:
        chosen = _insert(field, run, chart, chosen)
    return grid.double()[chosen]


def teacher_run(field: VelocityField, x_T: Tensor, grid: Tensor, teacher: Solver) -> list[Evaluation]:
    """The teacher's evaluations at the M + 1 times; the last, which it does not need, has no velocity."""
    states = list(trajectory(field, teacher, x_T, grid))
    last = Evaluation(states[-1].t, states[-1].x, torch.full_like(states[-1].x, torch.nan))
    return [*(state.buffer[0] for state in states[1:]), last]


def costs(run: Sequence[Evaluation], chart: Chart, metric: Metric) -> Tensor:
    """cost[i, j] (M + 1, M + 1), i < j: mean over samples of how far an Euler jump from i to j is from the teacher.

    "l1" and "l2" are norms of the difference; "dev" compares how far both points are from the straight line between
    the ends of the trajectory, and is negative where the jump is nearer to it.
    """
    found = torch.zeros(len(run), len(run), dtype=torch.float64)
    first, last = run[0].x, run[-1].x
    for i, here in enumerate(run[:-1]):
        slope = chart.slope(here)
        for j, there in enumerate(run[i + 1 :], i + 1):
            landed = chart.move(here.x, here.t, there.t, slope)
            if metric == "dev":
                off = _off_chord(there.x, first, last) if there is not run[-1] else 0
                apart = _off_chord(landed, first, last) - off
            else:
                apart = (landed - there.x).flatten(1).norm(p=1 if metric == "l1" else 2, dim=1)
            found[i, j] = apart.mean()
    return found


def shortest(cost: Tensor, jumps: int, discount: float) -> list[int]:
    """Indices (jumps + 1,) from 0 to the last of the path of least discounted cost, by dynamic programming.

    value[j, k] = min over i of cost[j, i] + discount * value[i, k - 1] is that of the best k jumps from j to the end;
    a discount above 1 makes late errors dear. Of equal paths the one that jumps least far first is taken.
    """
    last = len(cost) - 1
    above = np.triu(np.ones(cost.shape, dtype=bool), 1)
    reach = np.where(above, cost.numpy(), np.inf)
    value, onward = reach[:, last].copy(), []
    reach[:, last] = np.inf  # only the last jump ends there
    for _ in range(jumps - 1):
        through = reach + discount * value
        onward.append(through.argmin(1))
        value = through.min(1)
    chosen = [0]
    for step in reversed(onward):
        chosen.append(int(step[chosen[-1]]))
    return [*chosen, last]


def _off_chord(point: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Distance (B,) of points (B, *space) from the lines through first and last."""
    chord = (last - first).flatten(1)
    offset = (point - first).flatten(1)
    along = (offset * chord).sum(1, keepdim=True) / chord.square().sum(1, keepdim=True)
    return (offset - along * chord).norm(dim=1)


def _insert(field: VelocityField, run: Sequence[Evaluation], chart: Chart, chosen: list[int]) -> list[int]:
    """The chosen indices with the best one between the first two of them added."""
    if chosen[1] < 2:
        raise ValueError("expected a node of the teacher before the first jump, got none; give a finer teacher_grid")
    grid = torch.stack([evaluation.t for evaluation in run])

    def off(nodes: list[int]) -> float:
        end = integrate(field, _euler(chart), run[0].x, grid[nodes], afs=True).x
        return float((end - run[-1].x).flatten(1).norm(dim=1).mean())

    return min(([0, between, *chosen[1:]] for between in range(1, chosen[1])), key=off)


# imported late: a solver may itself import grids


def _ipndm(chart: Chart) -> Solver:
    from core.solvers.ipndm import IPNDM

    return IPNDM(4, chart)


def _euler(chart: Chart) -> Solver:
    from core.solvers.euler import Euler

    return Euler(chart)
