"""EPD: published tables to rounding, both ways of counting, the base before training, training, refusals."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import core
from core.fitting import FitConfig
from core.solvers.learned.epd import EPD, EPDConfig, LearnedEPD, LearnedEPDPlugin
from core.supervision import Example
from core.training import run_to_end, run_to_end_afs

F64 = torch.float64
MEANS = torch.randn(4, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(3))
MIXTURE = (MEANS, [0.4, 0.3, 0.2, 0.1], [0.3, 0.25, 0.4, 0.2])
EDM, VP = core.MixtureField(*MIXTURE), core.MixtureField(*MIXTURE, core.VP())


def grid_of(steps: int, t_min: float = 0.002) -> Tensor:
    return core.build_grid("karras", steps, 80.0, t_min, rho=7.0)


def noise(batch: int, seed: int = 0, scale: float = 80.0) -> Tensor:
    return scale * torch.randn(batch, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "least"), [("epd", 12), ("epd_plugin_ipndm", 3)])
def test_published_tables(shared: Path, kind: str, least: int) -> None:
    with np.load(shared / "golden" / "golden_solvers.npz") as arrays:
        keys = [key for key in arrays.files if key.startswith(f"{kind}|") and key.endswith("|f64")]
        assert len(keys) >= least
        for key in keys:
            _, name, _, _, mixture, _ = key.split("|")
            tables = [
                torch.from_numpy(arrays[f"epd_params/{name}/{part}"]) for part in ("w", "r", "scale_dir", "scale_time")
            ]
            options: dict[str, Any] = dict(zip(("weights", "r", "scale_dir", "scale_time"), tables, strict=True))
            if kind == "epd":
                solver = core.build_solver("epd", **options)
            else:
                solver = core.build_solver("epd-plugin", base=core.build_solver("ipndm", order=3), **options)
            grid = core.build_grid("vp-uniform", len(tables[0]), t_max=80.0, t_min=0.002)
            means, shares, stds = (torch.from_numpy(arrays[f"gmm/{mixture}/{p}"]) for p in ("means", "weights", "stds"))
            field = core.MixtureField(means, shares, stds)
            x_T = torch.from_numpy(arrays[f"latents_unit/{mixture}"]).double() * grid[0]
            times: list[float] = []

            class Spy:
                def __call__(self, x: Tensor, t: Tensor) -> Tensor:
                    times.append(float(t))  # noqa: B023 (called in this iteration alone)
                    return field(x, t)  # noqa: B023

                def analytic_velocity(self, x: Tensor, t: Tensor) -> Tensor:
                    return field.analytic_velocity(x, t)  # noqa: B023

            state = core.integrate(Spy(), solver, x_T, grid, afs=True)
            assert state.nfe == len(times) == int(arrays[f"nfe/{key}"])
            assert isinstance(solver, EPD)
            assert solver.rounds(grid, afs=True) == int(name.removesuffix("plugin")[-1])  # how the literature counts
            expected = torch.from_numpy(arrays[f"times/{key}"])
            torch.testing.assert_close(torch.tensor(times, dtype=F64), expected, rtol=1e-9, atol=0.0)
            torch.testing.assert_close(state.x, torch.from_numpy(arrays[key]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("points", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("afs", [False, True])
def test_untrained_it_is_dpm_solver_2(points: int, afs: bool) -> None:
    steps = 3
    for field, grid, schedule in (
        (EDM, grid_of(steps), None),
        (VP, core.build_grid("logsnr", steps, schedule=core.VP()), core.VP()),
    ):
        x_T, base = (
            noise(5, scale=float(field.schedule(grid[0]).sigma)),
            core.build_solver("dpm-solver-2", schedule=schedule),
        )
        expected = core.integrate(field, base, x_T, grid, afs)
        alone = core.build_solver("euler", schedule=schedule)
        for solver in (
            core.build_solver("epd", grid=grid, points=points, schedule=schedule),
            core.build_solver("epd", grid=grid, points=points, base=base),
            core.build_solver("epd-plugin", grid=grid, points=points, base=alone),
        ):
            got = core.integrate(field, solver, x_T, grid, afs)
            assert torch.equal(got.x, expected.x)
            assert got.nfe == (1 + points) * steps - afs
            assert isinstance(solver, LearnedEPD)
            assert solver.rounds(grid, afs) == expected.nfe


def test_a_plugin_predicts_its_points_with_the_history() -> None:
    """With one point at the middle: x' = x + h d(x + (t_m - t) sum_j b_j d_j, t_m), b those of iPNDM."""
    grid, x = grid_of(3), noise(5)
    solver = core.build_solver("epd-plugin", grid=grid, points=1, base=core.build_solver("ipndm", order=2))
    got, slopes = core.integrate(EDM, solver, x, grid), []
    for t, t_next in itertools.pairwise(grid):
        slopes.insert(0, EDM(x, t))
        middle = (t * t_next).sqrt()
        slope = slopes[0] if len(slopes) == 1 else 1.5 * slopes[0] - 0.5 * slopes[1]
        x = x + (t_next - t) * EDM(x + (middle - t) * slope, middle)
    torch.testing.assert_close(got.x, x, rtol=1e-9, atol=1e-9)
    assert len(got.buffer) == 2


def test_numbers_to_start_from_are_kept() -> None:
    grid, x_T = grid_of(2), noise(4)
    tables: dict[str, Any] = {
        "weights": torch.tensor([[0.7, 0.3], [0.4, 0.6]], dtype=F64),
        "r": torch.tensor([[0.2, 0.6], [0.1, 0.5]], dtype=F64),
        "scale_dir": torch.tensor([[1.1, 0.9], [0.95, 1.0]], dtype=F64),
        "scale_time": torch.tensor([[0.9, 1.0], [1.05, 0.97]], dtype=F64),
    }
    ends = [core.integrate(EDM, core.build_solver("epd", grid=g, **tables), x_T, grid).x for g in (None, grid)]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-9)
    row = core.build_solver("epd", weights=tables["weights"][0], r=0.5)
    assert core.integrate(EDM, row, x_T, grid_of(4)).nfe == 12


def test_it_ends_at_no_noise_counts_guidance_and_stays_in_single_precision() -> None:
    class Guided:
        evaluations_per_call = 2

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return EDM(x, t)

    grid = torch.tensor([10.0, 1.0, 0.0], dtype=F64)
    solver = core.build_solver("epd", weights=torch.tensor([0.3, 0.7]), r=torch.tensor([0.3, 0.6]))
    state = core.integrate(Guided(), solver, noise(4, scale=10.0).float(), grid)
    assert state.nfe == 2 * (3 + 1)
    assert state.x.dtype == torch.float32
    assert bool(torch.isfinite(state.x).all())
    assert isinstance(solver, EPD)
    assert solver.rounds(grid) == 3


def teacher_ends(seed: int, batch: int, grid: Tensor) -> Example:
    x_T, fine = noise(batch, seed), core.build_grid("karras", 24 * (len(grid) - 1), 80.0, 0.002, rho=7.0)
    return Example(x_T, None, core.integrate(EDM, core.build_solver("heun"), x_T, fine).x)


@pytest.mark.parametrize(
    ("base", "steps", "afs"), [(None, 2, True), (None, 2, False), (None, 3, True), ("ipndm", 2, True)]
)
def test_training_improves_on_the_base_and_parts_the_points(
    base: str | None, steps: int, afs: bool, tmp_path: Path
) -> None:
    """At 3, 4 and 5 rounds, which is what a solver of one point would cost."""
    grid, plugin = grid_of(steps), None if base is None else core.build_solver(base, order=3)
    solver = core.build_solver("epd" if plugin is None else "epd-plugin", grid=grid, base=plugin)
    train, held_out = teacher_ends(1, 64, grid), teacher_ends(10**6, 256, grid)

    def error(student: core.Solver) -> float:
        with torch.no_grad():
            return float(core.MSE()(core.integrate(EDM, student, held_out.x_T, grid, afs).x, held_out.endpoint))

    def loss(end: Tensor, example: Example) -> Tensor:
        return core.MSE()(end, example.endpoint)

    before, run = error(solver), run_to_end_afs if afs else run_to_end
    assert isinstance(solver, LearnedEPD)
    core.train_solver(solver, grid, lambda _: train, lambda _: EDM, loss, FitConfig(20, 0.2), tmp_path, run=run)
    known = solver.solver()
    assert error(solver) < 0.5 * before
    assert error(known) == error(solver)
    assert bool(((known.r[:, 0] - known.r[:, 1]).abs() > 1e-3).all())
    torch.testing.assert_close(known.weights.sum(-1), torch.ones(steps, dtype=F64))


@pytest.mark.parametrize("base", [None, core.IPNDM(3)])
def test_saved_and_loaded(base: core.Solver | None, tmp_path: Path) -> None:
    grid, x_T = grid_of(2), noise(4)
    kind = LearnedEPD if base is None else LearnedEPDPlugin
    weights = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1]], dtype=F64)
    solver = kind(EPDConfig(grid, 3, base, weights=weights, bound_dir=0.2))
    with torch.no_grad():
        solver.raw.normal_(generator=torch.Generator().manual_seed(0))
    path = core.save(tmp_path, solver, grid=grid, field_identity="f", supervision="teacher", loss="mse")
    loaded = core.load(path)
    assert isinstance(loaded, kind)
    assert loaded.card.steps == 2  # pyright: ignore
    assert torch.equal(core.integrate(EDM, loaded, x_T, grid).x, core.integrate(EDM, solver, x_T, grid).x)
    with pytest.raises(ValueError, match="expected a grid of 2 steps"):
        core.integrate(EDM, loaded, x_T, grid_of(3))


W = torch.tensor([[0.5, 0.5], [0.4, 0.6]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected weights and r of known numbers, or a grid"),
        ({"weights": W}, "expected weights and r of known numbers, or a grid"),
        ({"weights": W, "r": torch.tensor([0.5, 0.5])}, r"expected r of the shape of weights, \(2, 2\), got \(2,\)"),
        ({"weights": W, "r": 0.0}, "expected r strictly between 0 and 1"),
        ({"weights": W, "r": 0.5, "points": 3}, "expected points = 2 as in weights, got 3"),
        ({"weights": W[None], "r": 0.5}, r"expected weights \(steps, points\) or \(points,\), got \(1, 2, 2\)"),
        ({"grid": grid_of(3), "points": 0, "weights": torch.zeros(3, 0)}, "expected points of 'epd' as an integer"),
        ({"grid": grid_of(3), "weights": W}, r"expected weights as one number or of shape \(3, 2\)"),
        ({"grid": grid_of(2), "weights": -W}, "expected positive weights"),
        ({"grid": grid_of(2), "base": core.Heun()}, "expected a base among DPMSolver2, got Heun"),
        ({"name": "epd-plugin", "grid": grid_of(2)}, "expected base for 'epd-plugin', got none"),
        (
            {"name": "epd-plugin", "grid": grid_of(2), "base": core.build_solver("dpm-solver++")},
            "expected a base among Euler, IPNDM, AdamsBashforth, got DPMSolverPP",
        ),
    ],
)
def test_impossible_wishes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.build_solver(**{"name": "epd", **options})


def test_tables_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a grid of 2 steps, one a row of the tables, got 3"):
        core.integrate(EDM, core.build_solver("epd", weights=W, r=0.5), noise(2), grid_of(3))
    with pytest.raises(ValueError, match="expected no base for 'epd' and one for 'epd-plugin'"):
        LearnedEPDPlugin(EPDConfig(grid_of(2)))
