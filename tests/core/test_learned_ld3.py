"""LD3: published times and samples, its base solver before training, learned times that stay times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import core
from core.solvers.learned.ld3 import LD3, LD3Config

F64 = torch.float64
PUBLISHED_PRECISION = 3e-6
"""The published code keeps the ends of lambda in single precision."""
BASES = {
    "ipndm3": lambda: core.build_solver("ipndm", order=3),
    "dpmpp3": lambda: core.build_solver("dpm-solver++", order=3, prediction="data"),
    "unipc3_bh1": lambda: core.build_solver("unipc", order=3, variant="bh1", prediction="data"),
    "unipc3_bh2": lambda: core.build_solver("unipc", order=3, variant="bh2", prediction="data"),
}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    with np.load(shared / "golden" / "golden_solvers.npz") as arrays:
        wanted = ("ld3", "gmm/", "latents")
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith(wanted)}


def even_grid(mode: str, steps: int) -> Tensor:
    return core.build_grid("logsnr" if mode == "lambda" else "uniform", steps, 80.0, 0.002)


def published(golden: dict[str, Tensor], mode: str, kind: str, steps: int, base: core.Solver) -> LD3:
    """The published numbers in our order: their xi counts from the data in "time", and -lambda is our coordinate."""
    solver = LD3(LD3Config(base, even_grid(mode, steps), coordinate=mode, reference_compatible=True))  # type: ignore
    xi, shifts = (golden[f"ld3/{mode}/{kind}/n{steps}/params{i}"].double() for i in (1, 2))
    with torch.no_grad():
        solver.times.xi.copy_(xi.roll(-1) if mode == "lambda" else xi.flip(0))
        solver.shifts.copy_(-shifts if mode == "lambda" else shifts)
    return solver


@pytest.mark.parametrize("kind", ["init", "rand"])
@pytest.mark.parametrize("mode", ["lambda", "time"])
def test_times_are_the_published_ones(golden: dict[str, Tensor], mode: str, kind: str) -> None:
    for steps in (3, 5, 8, 10):
        for name, times in zip(
            ("t1", "t2"), published(golden, mode, kind, steps, core.Euler()).all_times(), strict=True
        ):
            expected = golden[f"ld3/{mode}/{kind}/n{steps}/{name}"]
            torch.testing.assert_close(times.detach(), expected, rtol=PUBLISHED_PRECISION, atol=0)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ["r2", "img8"])
def test_samples_are_the_published_ones(golden: dict[str, Tensor], base: str, name: str) -> None:
    field = core.MixtureField(*(golden[f"gmm/{name}/{part}"] for part in ("means", "weights", "stds")))
    for steps in (3, 5):
        solver = published(golden, "lambda", "rand", steps, BASES[base]())
        grid = even_grid("lambda", steps)
        state = core.integrate(field, solver, golden[f"latents_unit/{name}"].double() * 80, grid)
        expected = golden[f"ld3_{base}|lambda_rand_n{steps}|{name}|f64"]
        torch.testing.assert_close(state.x.detach(), expected, rtol=PUBLISHED_PRECISION, atol=PUBLISHED_PRECISION)
        assert state.nfe == steps


MEANS = torch.tensor([[[0.9, -0.4, 0.2], [0.1, 0.7, -0.8]], [[-0.6, 0.5, 0.3], [-0.9, 0.2, 0.4]]], dtype=F64)
CLOCKS = {
    "edm": (core.EDM(), core.build_grid("karras", 5, 80.0, 0.002)),
    "vp": (core.VP(), core.build_grid("quadratic", 5, 1.0, 1e-3)),
    "flow": (core.RectifiedFlow(), core.build_grid("shifted", 5, 1.0, 0.0)),
}


def problem(clock: str, dtype: torch.dtype = F64) -> tuple[core.MixtureField, Tensor]:
    schedule, grid = CLOCKS[clock]
    z = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(4), dtype=F64)
    return core.MixtureField(MEANS, [0.3, 0.7], [0.2, 0.35], schedule), (z * schedule(grid[0]).sigma).to(dtype)


NAMES = ("euler", "ipndm", "adams-bashforth", "deis", "dpm-solver++", "unipc")


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("afs", [False, True])
@pytest.mark.parametrize(
    ("name", "clock"),
    # DEIS weighs noise predictions, of which there is none at alpha = 0, where rectified flow starts
    [(name, clock) for name in NAMES for clock in CLOCKS if (name, clock) != ("deis", "flow")],
)
def test_untrained_it_is_its_base_to_the_last_bit(name: str, clock: str, afs: bool, dtype: torch.dtype) -> None:
    schedule, grid = CLOCKS[clock]
    exponential = name in ("deis", "dpm-solver++", "unipc")
    base = core.build_solver(name, schedule=schedule if clock == "vp" or exponential else None)
    solver = core.build_solver("ld3", base=base, grid=grid)
    field, x_T = problem(clock, dtype)
    expected, got = (core.integrate(field, either, x_T, grid, afs) for either in (base, solver))
    assert torch.equal(got.x, expected.x)
    assert got.nfe == expected.nfe == 5 - afs
    assert isinstance(solver, LD3)
    assert torch.equal(solver.grid, grid)
    assert solver.config.coordinate == ("time" if clock == "flow" else "lambda")


@pytest.mark.parametrize("coordinate", ["lambda", "time"])
def test_any_numbers_give_times(coordinate: str) -> None:
    grid = CLOCKS["vp"][1]
    solver = LD3(LD3Config(core.Euler(core.NoiseChart(core.VP())), grid, coordinate=coordinate))  # type: ignore
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        with torch.no_grad():
            solver.times.xi.copy_(3 * torch.randn(6, generator=generator, dtype=F64))
            solver.shifts.copy_(torch.randn(6, generator=generator, dtype=F64))
        times, network_times = solver.all_times()
        assert bool((times.diff() < 0).all())
        assert bool((network_times.diff() < 1e-12).all())  # two may meet in the middle of the smallest gap
        for values in (times, network_times):
            assert torch.equal(values[[0, -1]], grid[[0, -1]])


def test_network_times_move_under_their_bound_only() -> None:
    grid = core.build_grid("logsnr", 4, 80.0, 0.002)
    solvers = [LD3(LD3Config(core.Euler(), grid, reference_compatible=choice)) for choice in (False, True)]
    gap = float(np.log(80 / 0.002) / 4)
    for solver in solvers:
        with torch.no_grad():
            solver.shifts.fill_(0.3 * gap)
            solver.shifts[2] = 10.0
    ours, theirs = ((solver.all_times()[1] / grid).log()[1:-1] / gap for solver in solvers)
    torch.testing.assert_close(ours.detach(), torch.tensor([0.3, 0.5, 0.3], dtype=F64))
    torch.testing.assert_close(theirs.detach(), torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["ipndm", "unipc"])
def test_gradients_are_those_of_differences(name: str) -> None:
    base = core.build_solver(name, order=2)
    grid = core.build_grid("karras", 4, 80.0, 0.02)
    solver = LD3(LD3Config(base, grid))
    field, x_T = problem("edm")
    target = torch.ones(7, 2, 3, dtype=F64)

    def loss() -> Tensor:
        return (core.integrate(field, solver, x_T, grid).x - target).square().mean()

    with torch.no_grad():
        solver.times.xi.add_(torch.tensor([0.1, -0.2, 0.15, 0.05, 0.3], dtype=F64))
        solver.shifts.add_(torch.tensor([0.0, 0.03, -0.05, 0.02, 0.0], dtype=F64))
    loss().backward()
    for parameter in (solver.times.xi, solver.shifts):
        assert parameter.grad is not None
        for i in range(len(parameter)):
            ends = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter[i] += step
                    ends.append(float(loss()))
                    parameter[i] -= step
            assert float(parameter.grad[i]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-9)
    assert float(solver.times.xi.grad.abs().max()) > 1e-4  # type: ignore[union-attr]
    assert float(solver.shifts.grad.abs().max()) > 1e-4  # type: ignore[union-attr]


def test_training_lowers_the_held_out_error_and_survives_saving(tmp_path: Path) -> None:
    field, _ = problem("edm")
    grid, fine = CLOCKS["edm"][1], core.build_grid("karras", 20, 80.0, 0.002)

    def example(iteration: int) -> core.Example:
        z = torch.randn(16, 2, 3, generator=torch.Generator().manual_seed(iteration), dtype=F64)
        return core.Example(80 * z, None, core.integrate(field, core.Heun(), 80 * z, fine).x)

    base = core.build_solver("ipndm", order=3)
    solver = core.build_solver("ld3", base=base, grid=grid)
    assert isinstance(solver, LD3)
    examples = [example(seed) for seed in range(4)]
    core.train_solver(
        solver,
        grid,
        lambda iteration: examples[iteration % 4],
        lambda condition: field,
        lambda end, given: core.MSE()(end, given.endpoint),
        core.fitting.FitConfig(40, 5e-2),
        tmp_path / "run",
    )
    held_out = example(100)
    error = {
        label: float(
            (core.integrate(field, either, held_out.x_T, nodes).x - held_out.endpoint).square().mean().detach()
        )
        for label, either, nodes in (("base", base, grid), ("ld3", solver, grid), ("its grid", base, solver.grid))
    }
    assert error["ld3"] < 0.5 * error["base"]
    assert error["its grid"] < error["base"]
    path = core.save(tmp_path, solver, grid=grid, field_identity="", supervision="teacher", loss="MSE")
    loaded = core.load(path)
    ends = [core.integrate(field, either, held_out.x_T, grid).x for either in (solver, loaded)]
    assert torch.equal(ends[0].detach(), ends[1])
    with pytest.raises(ValueError, match="trained for"):
        core.integrate(field, loaded, held_out.x_T, solver.grid)


def test_refusals() -> None:
    grid = CLOCKS["edm"][1]
    with pytest.raises(ValueError, match="one evaluation a step"):
        core.build_solver("ld3", base=core.Heun(), grid=grid)
    with pytest.raises(ValueError, match="handcrafted"):
        core.build_solver("ld3", base=core.DDPM(core.VP()), grid=CLOCKS["vp"][1])
    with pytest.raises(ValueError, match="finite lambda at both ends"):
        LD3Config(core.Euler(), CLOCKS["flow"][1], core.RectifiedFlow(), coordinate="lambda")
    with pytest.raises(ValueError, match="'lambda' or 'time'"):
        LD3Config(core.Euler(), grid, coordinate="sigma")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected base"):
        core.build_solver("ld3", grid=grid)
