"""A DyWeight's plan is kept while nothing that it came from changes."""

from __future__ import annotations

import torch

import core
from core.solvers.learned.dyweight import DyWeight, DyWeightConfig


def test_a_kept_plan_follows_numbers_and_grid() -> None:
    """Without gradients the plan is found once; any change of what it came from must show in it."""
    grid = core.build_grid("karras", steps=4, t_max=80.0, t_min=0.002)
    solver = DyWeight(DyWeightConfig(steps=4, base=core.IPNDM(2))).requires_grad_(False)
    first = solver.plan(grid)
    assert solver.plan(grid.clone()) is first
    solver.weights.data.mul_(0.9)  # of which the tensor's version tells nothing
    second = solver.plan(grid)
    assert second is not first
    assert second.times[1] != first.times[1]
    solver.time_scale.data[2] = 0.5
    assert solver.plan(grid).queries[2] == 0.5 * second.queries[2]
    assert solver.plan(0.5 * grid).times[0] == 0.5 * grid[0]
    with torch.inference_mode():
        solver.plan(grid)
    assert not solver.plan(grid).times[1].is_inference()
    solver.requires_grad_(True)
    assert solver.plan(grid).times[2].requires_grad
    with torch.no_grad():
        assert not solver.plan(grid).times[2].requires_grad
