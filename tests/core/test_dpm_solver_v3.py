"""DPM-Solver-v3 and the statistics it needs, against closed forms: a Gaussian, whose statistics are known, and flows
that are known exactly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

import core
from core.model_statistics import half_log_snr
from core.solvers.dpm_solver_v3 import DPMSolverV3

F64 = torch.float64
Prediction = Literal["data", "noise"]
CLOCKS = {"edm": (core.EDM(), 0.6, 0.05), "vp": (core.VP(), 0.3, 0.05)}


def line(schedule: core.Schedule, t_max: float) -> tuple[core.MixtureField, Tensor]:
    """A mixture on the line, whose flow is known, and samples at t_max."""
    means = torch.tensor([[-1.0], [0.4], [1.3]], dtype=F64)
    field = core.MixtureField(means, [0.3, 0.5, 0.2], [0.5, 0.35, 0.45], schedule)
    noise = torch.randn(13, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    return field, schedule(t_max).sigma * noise


def images() -> core.MixtureField:
    row, column = torch.arange(5, dtype=F64)[:, None], torch.arange(6, dtype=F64)
    means = torch.stack([0.8 * torch.sin((k + 1) * 0.5 * row + k) * torch.cos(0.4 * column + k) for k in range(4)])
    return core.MixtureField(means[:, None], [1.0, 2.0, 3.0, 4.0], [0.15, 0.2, 0.25, 0.3])


def error(field: core.MixtureField, solver: core.Solver, x: Tensor, grid: Tensor) -> float:
    exact = field.flow(x, grid[0], grid[-1])
    return float((core.integrate(field, solver, x, grid).x - exact).square().mean().sqrt())


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize(("memory", "corrector"), [(1, False), (2, False), (3, False), (1, True), (2, True), (3, True)])
@pytest.mark.parametrize("clock", CLOCKS)
def test_order_with_degenerate_statistics(prediction: Prediction, memory: int, corrector: bool, clock: str) -> None:
    schedule, t_max, t_min = CLOCKS[clock]
    field, x = line(schedule, t_max)
    coarse = 64 if corrector and memory > 1 else 32  # high orders show on fine grids
    grids = [core.build_grid("logsnr", steps, t_max, t_min, schedule=schedule) for steps in (coarse, 2 * coarse)]
    statistics = core.ModelStatistics.degenerate(schedule, grids[0], prediction, 1)
    solver = DPMSolverV3(memory, statistics, schedule, corrector, lower_order_final=False)
    errors = [error(field, solver, x, grid) for grid in grids]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.15)
    assert solver.order == (min(memory + 1, 3) if corrector else min(memory, 2))


@pytest.fixture(scope="module")
def fine() -> core.ModelStatistics:
    """Of the mixture on the line in EDM's clock."""
    schedule, t_max, t_min = CLOCKS["edm"]
    field, x = line(schedule, t_max)
    return core.estimate_statistics(field, schedule, [x], core.build_grid("logsnr", 128, t_max, t_min), core.Heun())


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("grid", ["uniform", "quadratic"])
def test_order_with_estimated_statistics_on_uneven_grids(
    fine: core.ModelStatistics, corrector: bool, grid: str
) -> None:
    schedule, t_max, t_min = CLOCKS["edm"]
    field, x = line(schedule, t_max)
    solver = DPMSolverV3(1, fine, schedule, corrector)
    errors = [error(field, solver, x, core.build_grid(grid, steps, t_max, t_min)) for steps in (64, 128)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.15)
    plain = DPMSolverV3(
        1,
        core.ModelStatistics.degenerate(schedule, torch.tensor([t_max, t_min], dtype=F64), "noise", 1),
        schedule,
        corrector,
    )
    assert errors[1] < error(field, plain, x, core.build_grid(grid, 128, t_max, t_min)) / 2


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_first_order_of_both_limits_is_ddim(clock: str, prediction: Prediction) -> None:
    schedule, t_max, t_min = CLOCKS[clock]
    field, x = line(schedule, t_max)
    grid = core.build_grid("uniform", 7, t_max, t_min)
    statistics = core.ModelStatistics.degenerate(schedule, grid, prediction, 1)
    ours = core.integrate(field, DPMSolverV3(1, statistics, schedule, corrector=False), x, grid)
    ddim = core.integrate(field, core.build_solver("ddim", schedule=schedule), x, grid)
    torch.testing.assert_close(ours.x, ddim.x, rtol=0, atol=1e-9)
    assert ours.nfe == 7


@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_second_order_of_the_limits_is_the_exponential_multistep_method(prediction: Prediction) -> None:
    """DPM-Solver++(2M) with the exact integral of the extrapolated data prediction, or its like for the noise."""
    schedule, t_max, t_min = CLOCKS["vp"]
    field, x = line(schedule, t_max)
    grid = core.build_grid("quadratic", 6, t_max, t_min)
    statistics = core.ModelStatistics.degenerate(schedule, grid, prediction, 1)
    solver = DPMSolverV3(2, statistics, schedule, corrector=False, lower_order_final=False)
    lam, (alpha, sigma, _, _) = half_log_snr(schedule, grid), schedule(grid)
    y, past = x, None
    for i in range(6):
        h = lam[i + 1] - lam[i]
        if prediction == "data":
            now = field.data(y, grid[i])
            change = torch.zeros_like(now) if past is None else (now - past[0]) / past[1]
            first, second = -torch.expm1(-h), h + torch.expm1(-h)  # of exp(-(h - u)) and of u times that
            y = sigma[i + 1] / sigma[i] * y + alpha[i + 1] * (first * now + second * change)
        else:
            now = field.noise(y, grid[i])
            change = torch.zeros_like(now) if past is None else (now - past[0]) / past[1]
            first, second = torch.expm1(h), torch.expm1(h) - h  # of exp(h - u) and of u times that
            y = alpha[i + 1] / alpha[i] * y - sigma[i + 1] * (first * now + second * change)
        past = (now, h)
    torch.testing.assert_close(core.integrate(field, solver, x, grid).x, y, rtol=0, atol=1e-9)


def test_the_flow_is_exact_whatever_the_statistics_where_f_is_what_they_say() -> None:
    """With b arbitrary and f the solution of f' = s f + b, one step of any length is exact."""
    generator = torch.Generator().manual_seed(4)
    nodes = torch.linspace(-1.0, 2.0, 7, dtype=F64)
    linear, slope, offset = torch.randn(3, 7, 2, 3, generator=generator, dtype=F64)
    statistics = core.ModelStatistics(nodes, linear, slope, offset)
    schedule, x = core.EDM(), torch.randn(4, 2, 3, generator=generator, dtype=F64)
    fine = torch.linspace(-1.0, 2.0, 601, dtype=F64)
    at = [torch.stack(values) for values in zip(*(statistics.at(fine[i : i + 1]) for i in range(601)), strict=True)]
    f, y = torch.randn(4, 2, 3, generator=generator, dtype=F64), x.clone()
    first = f.clone()
    for i in range(0, 600, 2):  # classical Runge-Kutta over pairs of nodes
        h = fine[i + 2] - fine[i]

        def rate(j: int, y: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
            return -at[0][j, 0] * y - f, at[1][j, 0] * f + at[2][j, 0]

        k1 = rate(i, y, f)
        k2 = rate(i + 1, y + h / 2 * k1[0], f + h / 2 * k1[1])
        k3 = rate(i + 1, y + h / 2 * k2[0], f + h / 2 * k2[1])
        k4 = rate(i + 2, y + h * k3[0], f + h * k3[1])
        y = y + h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
        f = f + h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
    grid = (-nodes[[0, -1]]).exp()
    noise = (first + linear[0] * x) / grid[0]  # f = sigma noise - l x, and dx/dt of EDM is the noise
    state = core.integrate(lambda x, t: noise, DPMSolverV3(1, statistics, schedule), x, grid)
    torch.testing.assert_close(state.x, y, rtol=1e-5, atol=1e-5)


def test_statistics_of_a_gaussian_are_known() -> None:
    """noise = sigma (x - alpha m) / v: the Jacobian is sigma^2 / v, f is constant over samples."""
    mean, std = torch.tensor([[0.7, -0.3, 1.1]], dtype=F64), 0.6
    schedule = core.VP()
    field = core.MixtureField(mean, [1.0], std, schedule)
    grid = core.build_grid("logsnr", 100, 0.9, 0.02, schedule=schedule)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = core.estimate_statistics(field, schedule, [x[:2], x[2:]], grid, core.Heun(core.NoiseChart(schedule)))
    alpha, sigma, _, _ = schedule(grid)
    variance = alpha**2 * std**2 + sigma**2
    exact = sigma**2 / variance
    torch.testing.assert_close(found.linear, exact[:, None].expand(-1, 3), rtol=1e-10, atol=0)
    assert found.slope.abs().max() == 0  # f does not vary
    f = -(exact[:, None]) * mean
    (change,) = torch.gradient(f, spacing=(half_log_snr(schedule, grid),), dim=0)
    torch.testing.assert_close(found.offset[1:-1], change[1:-1], rtol=1e-2, atol=1e-3)
    few = core.build_grid("logsnr", 3, 0.9, 0.02, schedule=schedule)
    solver = core.build_solver("dpm-solver-v3", order=1, statistics=found, schedule=schedule)
    assert (
        error(field, solver, x, few) < 1e-3 < 0.1 < error(field, core.build_solver("ddim", schedule=schedule), x, few)
    )


def test_slope_and_offset_are_the_regression_of_the_change_along_the_flow() -> None:
    """df/dlambda by finite differences between neighbours on exact trajectories, regressed by hand."""
    schedule, t_max, t_min = CLOCKS["edm"]
    field, x = line(schedule, t_max)
    grid = core.build_grid("logsnr", 100, t_max, t_min)
    found = core.estimate_statistics(field, schedule, [x], grid, core.build_solver("rk4"))
    nodes, f = found.half_log_snr, []
    for i in (59, 60, 61):
        y = field.flow(x, grid[0], grid[i])
        f.append(grid[i] * field.noise(y, grid[i]) - found.linear[i] * y)
    change = (f[2] - f[0]) / (nodes[61] - nodes[59])
    centred = f[1] - f[1].mean(0)
    slope = (centred * change).mean(0) / centred.square().mean(0)
    torch.testing.assert_close(found.slope[60], slope, rtol=5e-3, atol=0)
    torch.testing.assert_close(found.offset[60], (change - slope * f[1]).mean(0), rtol=5e-2, atol=1e-4)


def test_five_steps_beat_dpm_solver_plus_plus_on_images() -> None:
    field, generator = images(), torch.Generator().manual_seed(3)
    batches = [80 * torch.randn(192, 1, 5, 6, generator=generator, dtype=F64)]
    fine = core.build_grid("logsnr", 60, 80.0, 0.002)
    statistics = core.estimate_statistics(field, core.EDM(), batches, fine, core.Heun())
    x = 80 * torch.randn(64, 1, 5, 6, generator=generator, dtype=F64)
    grid = core.build_grid("karras", 5, 80.0, 0.002)
    exact = core.integrate(field, core.Heun(), x, core.build_grid("karras", 150, 80.0, 0.002)).x

    def rms(solver: core.Solver) -> float:
        state = core.integrate(field, solver, x, grid)
        assert state.nfe == 5
        return float((state.x - exact).square().flatten(1).mean(1).sqrt().mean())

    for order in (2, 3):
        ours = rms(core.build_solver("dpm-solver-v3", order=order, statistics=statistics))
        assert ours < rms(core.build_solver("dpm-solver++", order=order)) / 2


def test_afs_float32_and_a_step_to_zero() -> None:
    field = images()
    x = 80 * torch.randn(3, 1, 5, 6, generator=torch.Generator().manual_seed(5), dtype=F64)
    grid = torch.cat([core.build_grid("karras", 4, 80.0, 0.002), torch.zeros(1, dtype=F64)])
    statistics = core.ModelStatistics.degenerate(core.EDM(), grid[:-1], "data", 3)
    solver = DPMSolverV3(2, statistics)
    states = list(core.trajectory(field, solver, x, grid))
    assert states[-1].nfe == 5
    assert core.integrate(field, solver, x, grid, afs=True).nfe == 4
    last = states[-1].buffer[0]
    assert float(last.t) == pytest.approx(0.002)
    assert (states[-1].x - field.data(last.x, last.t)).abs().max() < 1e-2  # of the corrected state, near the predicted
    single = core.integrate(field, solver, x.float(), grid).x
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), states[-1].x, rtol=1e-3, atol=1e-3)


def test_statistics_survive_the_disk_and_refuse_what_is_not_theirs(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    nodes = torch.linspace(-4, 6, 5, dtype=F64)
    statistics = core.ModelStatistics(nodes, *torch.randn(3, 5, 2, 3, generator=generator, dtype=F64))
    path = core.save_statistics(tmp_path / "ems.safetensors", statistics)
    again = core.load_statistics(path)
    for name in ("half_log_snr", "linear", "slope", "offset"):
        assert torch.equal(getattr(again, name), getattr(statistics, name))
    assert [p.name for p in tmp_path.iterdir()] == ["ems.safetensors"]
    with pytest.raises(ValueError, match="no file"):
        core.load_statistics(tmp_path / "none")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="truncated"):
        core.load_statistics(path)
    with pytest.raises(ValueError, match="finite linear"):
        core.ModelStatistics(nodes, *torch.full((3, 5, 2, 3), math.nan))
    with pytest.raises(ValueError, match="ascending"):
        core.ModelStatistics(nodes.flip(0), *torch.zeros(3, 5, 2))


def test_a_base_of_spanlift_that_is_saved_with_it(tmp_path: Path, fine: core.ModelStatistics) -> None:
    _, t_max, t_min = CLOCKS["edm"]
    statistics = core.ModelStatistics(
        fine.half_log_snr,
        *(value[..., None, None].expand(-1, 1, 3, 4) for value in (fine.linear, fine.slope, fine.offset)),
    )
    means = torch.randn(3, 1, 3, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    field, x = core.MixtureField(means, [1.0, 2.0, 1.0], 0.4), torch.randn(2, 1, 3, 4, dtype=F64)
    base = DPMSolverV3(2, statistics)
    grid = core.build_grid("karras", 4, t_max, t_min)
    solver = core.spanlift(base, core.ResidualConfig(1, width=4, steps=4))
    path = core.save(tmp_path, solver, grid=grid, field_identity="", supervision="teacher", loss="mse")
    expected = core.integrate(field, base, x, grid).x
    assert torch.equal(core.integrate(field, solver, x, grid).x, expected)
    assert torch.equal(core.integrate(field, core.load(path), x, grid).x, expected)


def test_refusals() -> None:
    schedule, t_max, t_min = CLOCKS["edm"]
    field, x = line(schedule, t_max)
    statistics = core.ModelStatistics.degenerate(schedule, torch.tensor([0.6, 0.05], dtype=F64), "data", 1)
    with pytest.raises(ValueError, match="estimate them with"):
        core.build_solver("dpm-solver-v3", order=2)
    with pytest.raises(ValueError, match="order from 1 to 3"):
        core.build_solver("dpm-solver-v3", order=4, statistics=statistics)
    solver = core.build_solver("dpm-solver-v3", order=2, statistics=statistics)
    with pytest.raises(ValueError, match="as the statistics"):
        core.integrate(field, solver, x, core.build_grid("uniform", 3, 0.7, t_min))
    with pytest.raises(ValueError, match="two samples"):
        core.estimate_statistics(field, schedule, [], core.build_grid("uniform", 3, t_max, t_min), core.Heun())
    with pytest.raises(ValueError, match="sigma > 0"):
        core.estimate_statistics(field, schedule, [x], core.build_grid("uniform", 3, t_max, 0.0), core.Heun())
