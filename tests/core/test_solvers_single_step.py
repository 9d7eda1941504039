"""RK4 and DPM-Solver-2 on exact problems."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import core
from core.specifications import from_specification, to_specification

F64 = torch.float64
SOLVERS: list[core.Solver] = [
    core.RK4(),
    core.RK4(core.NoiseChart(core.VP())),
    core.RK4(core.DataChart(core.VP())),
    core.DPMSolver2(schedule=core.VP()),
    core.DPMSolver2(0.3, core.VP()),
    core.DPMSolver2(1.0, core.VP()),
]


def rough(steps: int, t_max: float, t_min: float) -> Tensor:
    lengths = torch.tensor([1.0, 2.0] * (steps // 2), dtype=F64)
    return t_max - (t_max - t_min) * torch.cat([torch.zeros(1, dtype=F64), lengths.cumsum(0) / lengths.sum()])


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=F64)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("even", [True, False])
def test_measured_order_is_the_declared_one(solver: core.Solver, even: bool) -> None:
    field = core.MixtureField(
        torch.tensor([[-1.0], [0.4], [1.3]], dtype=F64), [0.3, 0.5, 0.2], [0.5, 0.35, 0.45], core.VP()
    )
    x, errors = 0.5 * noise(13, 1), []
    for steps in (24, 48):
        grid = core.build_grid("uniform", steps, 0.3, 0.05) if even else rough(steps, 0.3, 0.05)
        exact = field.flow(x, grid[0], grid[-1])
        state = core.integrate(field, solver, x, grid)
        errors.append(float((state.x - exact).square().mean().sqrt()))
        assert state.nfe == steps * (4 if isinstance(solver, core.RK4) else 2)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.15)


def test_rk4_by_hand() -> None:
    """dx/dt = x from t = 1 to 0.5: the Taylor polynomial of degree 4 in h = -1/2."""
    state = core.integrate(lambda x, t: x, core.RK4(), torch.full((2, 1), 3.0, dtype=F64), torch.tensor([1.0, 0.5]))
    polynomial = sum((-0.5) ** k / math.factorial(k) for k in range(5))
    torch.testing.assert_close(state.x, torch.full((2, 1), 3.0 * polynomial, dtype=F64), rtol=1e-14, atol=0)
    assert state.nfe == 4
    assert state.buffer[0].velocity.tolist() == [[3.0], [3.0]]


@pytest.mark.parametrize(("r", "inner"), [(0.5, 2.0), (0.25, 4 / math.sqrt(2)), (1.0, 1.0)])
def test_dpm_solver_2_asks_at_the_inner_point(r: float, inner: float) -> None:
    """From t = 4 to 1 with dx/dt = t: exact at the start, 4, and at the point, its time."""
    times: list[float] = []

    def field(x: Tensor, t: Tensor) -> Tensor:
        times.append(float(t))
        return t.expand_as(x)

    state = core.integrate(field, core.DPMSolver2(r), torch.zeros(2, 3, dtype=F64), torch.tensor([4.0, 1.0]))
    assert times == pytest.approx([4.0, inner])
    slope = inner / (2 * r) + (1 - 1 / (2 * r)) * 4
    torch.testing.assert_close(state.x, torch.full((2, 3), -3 * slope, dtype=F64))


@pytest.mark.parametrize("chart", [core.NoiseChart(core.VP()), core.DataChart(core.VP())])
def test_vp_is_its_variance_exploding_rescaling(chart: core.Chart) -> None:
    vp, edm = core.VP(), core.EDM()
    other = core.NoiseChart(edm) if isinstance(chart, core.NoiseChart) else core.DataChart(edm)
    means, grid = noise(3, 2, 5), core.build_grid("uniform", 5, 0.8, 0.02)
    fields = [core.MixtureField(means, [0.5, 0.2, 0.3], 0.4, schedule) for schedule in (vp, edm)]
    for ours, theirs in ((core.RK4(chart), core.RK4(other)), (core.DPMSolver2(0.4, vp), core.DPMSolver2(0.4))):
        x = noise(4, 2, 5)
        a = core.integrate(fields[0], ours, vp(grid[0]).alpha * x, grid, afs=True)
        b = core.integrate(fields[1], theirs, x, vp.ratio(grid), afs=True)
        torch.testing.assert_close(a.x / vp(grid[-1]).alpha, b.x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", [core.RK4(), core.RK4(core.DataChart(core.EDM())), core.DPMSolver2()], ids=str)
def test_the_step_to_the_data_is_an_euler_step(solver: core.Solver) -> None:
    field = core.MixtureField(noise(3, 2, 5), [0.5, 0.2, 0.3], 0.4)
    *_, before, last = core.trajectory(field, solver, noise(4, 2, 5), torch.tensor([2.0, 0.5, 0.0]))
    torch.testing.assert_close(last.x, field.data(before.x, torch.tensor(0.5, dtype=F64)))
    assert last.nfe == before.nfe + 1


def test_dpm_solver_2_needs_data_in_the_state() -> None:
    flow = core.RectifiedFlow()
    field = core.MixtureField(noise(3, 2, 5), [0.5, 0.2, 0.3], 0.4, flow)
    solver = core.build_solver("dpm-solver-2", schedule=flow)
    with pytest.raises(ValueError, match="expected alpha > 0 at the start of a step in the noise chart"):
        core.integrate(field, solver, noise(4, 2, 5), core.build_grid("uniform", 3, 1.0, 0.0, schedule=flow))
    assert core.integrate(field, core.build_solver("rk4"), noise(4, 2, 5), torch.tensor([1.0, 0.4, 0.0])).nfe == 5


def test_impossible_wishes_are_refused() -> None:
    for r in (0.0, 1.2, float("nan")):
        with pytest.raises(ValueError, match=r"expected r in \(0, 1\], got"):
            core.DPMSolver2(r)
    with pytest.raises(ValueError, match=r"expected one r for 'dpm-solver-2', got a tensor \(3,\)"):
        core.build_solver("dpm-solver-2", r=torch.full((3,), 0.5))

    class Other:
        coordinate = to = back = slope = move = staticmethod(lambda *tensors: tensors[0])

    field, x, grid = (lambda x, t: x), torch.ones(2, 3, dtype=F64), torch.tensor([2.0, 1.0])
    with pytest.raises(ValueError, match="expected a time, noise or data chart, got Other"):
        core.integrate(field, core.RK4(Other()), x, grid)  # pyright: ignore


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_written_down_and_read_back(solver: core.Solver) -> None:
    assert from_specification(to_specification(solver)) == solver
