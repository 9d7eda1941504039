"""DEIS: exact integrals, the clock they run in, the reference's own ones, order."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

import core
from core.clocks import VPClock
from core.solvers import deis

F64 = torch.float64


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


SCHEDULES = [
    core.EDM(),
    core.EDM(t_min=0.0),
    core.VP(),
    core.Cosine(),
    core.RectifiedFlow(),
    core.DiscreteVP.linear(40),
]
NODES = {"EDM": times(80.0, 70.0, 9.0, 1.0), "": times(0.98, 0.9, 0.61, 0.5)}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{type(s).__name__} to {s.t_min}")
def test_the_quadrature_is_exact_to_rounding_even_to_the_data(
    schedule: core.Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times as many nodes change nothing; neither do they where the last step ends at sigma = 0."""
    grid = torch.cat([NODES.get(type(schedule).__name__, NODES[""]), times(schedule.t_min)])
    table = core.DEIS(4, schedule).plan(grid).table
    monkeypatch.setattr(deis, "GAUSS_NODES", 4 * deis.GAUSS_NODES)
    for weights, finer in zip(table, core.DEIS(4, schedule).plan(grid).table, strict=True):
        torch.testing.assert_close(weights, finer, rtol=1e-13, atol=1e-13 * float(finer.abs().max()))
        assert float(weights.sum()) == pytest.approx(1, abs=1e-12)


def test_weights_are_the_integrals_of_the_paper() -> None:
    """C_j = integral of ds/dtau L_j(tau), by scipy's adaptive quadrature in tau."""
    schedule, grid = core.VP(), times(0.7, 0.5, 0.4, 0.15)
    weights = core.DEIS(3, schedule).plan(grid).table[2] * (schedule.ratio(grid[3]) - schedule.ratio(grid[2]))
    nodes = [0.4, 0.5, 0.7]

    def integrand(tau: float, j: int) -> float:
        signal = schedule(tau)
        pace = (signal.d_sigma * signal.alpha - signal.sigma * signal.d_alpha) / signal.alpha**2
        others = [node for node in nodes if node != nodes[j]]
        return float(pace) * np.prod([(tau - node) / (nodes[j] - node) for node in others])

    expected = [quad(integrand, 0.4, 0.15, args=(j,), epsabs=1e-13, epsrel=1e-13)[0] for j in range(3)]
    torch.testing.assert_close(weights, times(*expected), rtol=1e-11, atol=1e-12)


def test_the_clock_runs_through_both_ends_and_back() -> None:
    for clock in (VPClock(), VPClock(50.0, 0.0), VPClock(14.6, 0.029)):
        tau = torch.linspace(1, 1e-3, 7, dtype=F64)
        ratio = clock.ratio(tau)
        torch.testing.assert_close(ratio[[0, -1]], times(clock.ratio_max, clock.ratio_min), rtol=1e-9, atol=1e-7)
        torch.testing.assert_close(clock.time_at(ratio), tau, rtol=1e-9, atol=1e-9)
        steps = (clock.ratio(tau[:-1] + 1e-6) - clock.ratio(tau[:-1] - 1e-6)) / 2e-6
        torch.testing.assert_close(clock.pace(tau[:-1]), steps, rtol=1e-5, atol=0.0)


def test_edm_and_its_vp_rescaling_are_sampled_alike() -> None:
    """The same method on the same model, told in sigma or in tau with x scaled by alpha."""
    clock = VPClock(20.0, 0.05)
    vp = core.VP(beta_min=clock.rate, beta_max=clock.rate + clock.growth)
    means, weights = torch.tensor([[0.5, -1.0, 0.1], [-0.7, 0.4, 0.9]], dtype=F64), [0.4, 0.6]
    grid = core.build_grid("karras", 6, 20.0, 0.05)
    x = 20 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    edm = core.integrate(core.MixtureField(means, weights, 0.3), core.DEIS(3, core.EDM(20.0, 0.05)), x, grid)
    tau, alpha = vp.time_at(grid), vp(vp.time_at(grid)).alpha
    there = core.integrate(core.MixtureField(means, weights, 0.3, vp), core.DEIS(3, vp), alpha[0] * x, tau)
    torch.testing.assert_close(there.x / alpha[-1], edm.x, rtol=1e-8, atol=1e-8)
    assert there.nfe == edm.nfe == 6


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_planned_or_not_it_takes_the_same_steps(order: int) -> None:
    field = core.MixtureField(torch.tensor([[0.5, -1.0], [-0.7, 0.4]], dtype=F64), [0.4, 0.6], 0.3)
    grid, solver = core.build_grid("karras", 6), core.DEIS(order)
    state = core.State(80 * torch.ones(3, 2, dtype=F64), grid[0], 0, (), 0)
    for t_next in grid[1:]:
        state = solver.step(field, state, t_next)
    assert torch.equal(state.x, core.integrate(field, solver, 80 * torch.ones(3, 2, dtype=F64), grid).x)
    assert len(state.buffer) == order == solver.plan(grid).memory
    assert solver.plan(grid).order == solver.order == min(order, 2)


def error(solver: core.Solver, grid: str, steps: int, schedule: core.Schedule, t_max: float, t_min: float) -> float:
    field = core.MixtureField(
        torch.tensor([[-1.0], [0.4], [1.3]], dtype=F64), [0.3, 0.5, 0.2], [0.5, 0.35, 0.45], schedule
    )
    x = schedule(t_max).sigma * torch.randn(13, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    nodes = core.build_grid(grid, steps, t_max, t_min)
    end = core.integrate(field, solver, x, nodes).x
    return float((end - field.flow(x, nodes[0], nodes[-1])).square().mean().sqrt())


@pytest.mark.parametrize("grid", ["uniform", "quadratic"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("schedule", [core.EDM(), core.VP()], ids=lambda s: type(s).__name__)
def test_measured_order(schedule: core.Schedule, order: int, grid: str) -> None:
    solver = core.build_solver("deis", order=order, schedule=schedule)
    ends = (0.6, 0.05) if isinstance(schedule, core.EDM) else (0.3, 0.05)
    coarse, fine = (error(solver, grid, steps, schedule, *ends) for steps in (64, 128))
    assert np.log2(coarse / fine) == pytest.approx(solver.order, abs=0.15)


def test_exact_integrals_differ_from_the_references_by_its_error() -> None:
    grid = core.build_grid("vp-quadratic", 5)
    exact, theirs = (core.build_solver("deis", order=3, reference_compatible=c).plan(grid) for c in (False, True))
    gaps = [float((a - b).abs().max()) for a, b in zip(exact.table, theirs.table, strict=True)]
    assert gaps[0] == 0
    assert all(1e-7 < gap < 1e-2 for gap in gaps[1:])


KEY = re.compile(r"deis_tab(\d)\|(\w+)\|afs([01])\|nfe(\d+)\|(r2|img8)\|f64$")
NAMES = {"poly7": "karras", "logsnr": "logsnr", "tu1": "vp-uniform", "tu2": "vp-quadratic"}


def test_published_numbers(shared: Path) -> None:
    with np.load(shared / "golden" / "golden_solvers.npz") as arrays:
        kept = [name for name in arrays.files if name.startswith(("deis_tab", "gmm/", "latents_unit/"))]
        golden = {name: torch.from_numpy(arrays[name]) for name in kept}
    found = [match for name in golden if (match := KEY.match(name))]
    assert len(found) >= 100
    for match in found:
        order, afs, nfe = int(match[1]), int(match[3]), int(match[4])
        field = core.MixtureField(*(golden[f"gmm/{match[5]}/{part}"] for part in ("means", "weights", "stds")))
        grid = core.build_grid(NAMES[match[2]], nfe + afs, 80.0, 0.002, rho=7.0)
        solver = core.build_solver("deis", order=order, reference_compatible=True)
        state = core.integrate(field, solver, golden[f"latents_unit/{match[5]}"].double() * 80, grid, bool(afs))
        torch.testing.assert_close(state.x, golden[match[0]], rtol=1e-9, atol=1e-9)
        assert state.nfe == nfe


def test_published_coefficients(shared: Path) -> None:
    count = 0
    with np.load(shared / "golden" / "golden_solvers.npz") as arrays:
        for name in arrays.files:
            found = re.match(r"deis_tab_coeff/(\w+)/n(\d+)/o(\d)/step([1-9])/f64$", name)
            if found:
                grid, i = core.build_grid(NAMES[found[1]], int(found[2]) - 1, 80.0, 0.002), int(found[4])
                weights = core.DEIS(int(found[3]), reference_compatible=True).plan(grid).table[i]
                expected = torch.from_numpy(arrays[name])
                torch.testing.assert_close(weights * (grid[i + 1] - grid[i]), expected, rtol=1e-10, atol=1e-12)
                count += 1
    assert count > 30


def test_refusals() -> None:
    with pytest.raises(ValueError, match="expected an order from 1 to 4, got 5"):
        core.DEIS(5)
    with pytest.raises(ValueError, match=r"expected 0 <= ratio_min < ratio_max < infinity, got 1.0 and 0.5"):
        VPClock(0.5, 1.0)
