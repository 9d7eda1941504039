"""Model statistics in any precision, for states of their own shape; DPM-Solver-v3 on rough and extreme grids."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import core
from core.model_statistics import FORMAT, NAMES
from core.solvers.dpm_solver_v3 import DPMSolverV3

F64 = torch.float64


def line() -> tuple[core.MixtureField, Tensor]:
    """A mixture on the line, whose flow is known, and samples at sigma = 0.6."""
    field = core.MixtureField(torch.tensor([[-1.0], [0.4], [1.3]], dtype=F64), [0.3, 0.5, 0.2], [0.5, 0.35, 0.45])
    return field, 0.6 * torch.randn(13, 1, generator=torch.Generator().manual_seed(1), dtype=F64)


def smooth() -> core.ModelStatistics:
    """Statistics that vary with lambda, on nodes so close that no step sees a kink."""
    nodes = torch.linspace(0.4, 3.1, 1500, dtype=F64)[:, None]
    return core.ModelStatistics(nodes[:, 0], 0.5 + 0.2 * nodes.sin(), -0.3 + 0.1 * nodes.cos(), 0.1 * nodes)


def rough(steps: int) -> Tensor:
    """From 0.6 to 0.05, every other step two and a half times as long: no limit smooths it."""
    lengths = torch.ones(steps, dtype=F64)
    lengths[1::2] = 2.5
    return 0.6 - 0.55 * torch.cat([torch.zeros(1, dtype=F64), lengths.cumsum(0) / lengths.sum()])


@pytest.mark.parametrize(("memory", "corrector"), [(1, False), (2, False), (1, True), (2, True), (3, True)])
def test_the_order_holds_on_grids_that_stay_rough(memory: int, corrector: bool) -> None:
    field, x = line()
    solver = DPMSolverV3(memory, smooth(), core.EDM(), corrector, lower_order_final=False)
    errors = []
    for steps in (48, 96):
        grid = rough(steps)
        end = core.integrate(field, solver, x, grid).x
        errors.append(float((end - field.flow(x, grid[0], grid[-1])).square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) > solver.order - 0.5


@pytest.mark.parametrize("memory", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_fewest_steps_with_and_without_noise_at_the_end(memory: int, steps: int) -> None:
    """Also where one step covers all nodes of the statistics, and where the last one ends at sigma = 0."""
    field, x = line()
    statistics = core.ModelStatistics.degenerate(core.EDM(), torch.tensor([80.0, 0.002], dtype=F64), "data", 1)
    for zero in (False, True):
        grid = core.build_grid("karras", steps, 80.0, 0.002)
        grid = torch.cat([grid, grid.new_zeros(1)]) if zero else grid
        for afs in (False, True):
            state = core.integrate(field, DPMSolverV3(memory, statistics), x * 80 / 0.6, grid, afs)
            assert state.nfe == len(grid) - 1 - afs
            assert bool(torch.isfinite(state.x).all())
            assert float(state.x.abs().max()) < 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_numbers_of_any_precision_serve(dtype: torch.dtype, tmp_path: Path) -> None:
    field, x = line()
    nodes = torch.tensor([0, 1, 2, 4]).to(dtype)
    values = torch.tensor([[0], [1], [1], [0]]).to(dtype)
    given = core.ModelStatistics(nodes, values, -values, values)
    exact = core.ModelStatistics(nodes.double(), values.double(), -values.double(), values.double())
    ends = [
        core.integrate(field, DPMSolverV3(2, statistics), x, rough(6)).x
        for statistics in (given, exact, core.load_statistics(core.save_statistics(tmp_path / "s", given)))
    ]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    assert all(getattr(given, name).dtype == F64 for name in NAMES)


def test_states_of_another_model_are_refused() -> None:
    nodes, field = torch.tensor([0.0, 4.0], dtype=F64), core.DenoiserField(lambda x, t: 0 * x)
    grid = rough(2)
    for space, fits in (((3, 4, 5), True), ((1, 1, 1), True), ((3, 1, 1), True), ((3, 8, 8), False), ((5,), False)):
        solver = DPMSolverV3(1, core.ModelStatistics(nodes, *torch.zeros(3, 2, *space, dtype=F64)))
        if fits:
            assert core.integrate(field, solver, torch.ones(2, 3, 4, 5), grid).nfe == 2
            continue
        with pytest.raises(ValueError, match=r"expected states \(batch, .*\), as the statistics, got \(2, 3, 4, 5\)"):
            core.integrate(field, solver, torch.ones(2, 3, 4, 5), grid)


def test_what_is_no_statistics_is_refused(tmp_path: Path) -> None:
    one = torch.zeros(2, 3, dtype=F64)
    for nodes in ([-math.inf, 0.0], [0.0, math.inf], [0.0, math.nan], [1.0, 1.0]):
        with pytest.raises(ValueError, match="finite, ascending nodes"):
            core.ModelStatistics(torch.tensor(nodes), one, one, one)
    with pytest.raises(ValueError, match="finite linear of shape"):
        core.ModelStatistics(torch.tensor([0.0, 1.0]), *torch.zeros(3))
    tensors = {"half_log_snr": torch.tensor([0.0, 1.0]), **dict.fromkeys(NAMES[1:], torch.zeros(2, 1))}
    for card in ({}, {"card": "no JSON"}, {"card": json.dumps([1])}, {"card": json.dumps({})}):
        path = tmp_path / "s.safetensors"
        save_file({name: value.clone() for name, value in tensors.items()}, path, {"format": FORMAT, **card})
        with pytest.raises(ValueError, match="expected a JSON card in"):
            core.load_statistics(path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_estimates_on_an_accelerator_are_those_of_the_cpu() -> None:
    field, x = line()
    grid = core.build_grid("logsnr", 12, 0.6, 0.05)
    here, there = (core.estimate_statistics(field, core.EDM(), [x.to(d)], grid, core.Heun()) for d in ("cpu", "cuda"))
    for name in NAMES:
        torch.testing.assert_close(getattr(there, name), getattr(here, name), rtol=1e-9, atol=1e-9)
