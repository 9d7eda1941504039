"""A one-step method takes the first steps: the order of a multistep method is then its own. And iPNDM_v's slips."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import core
from core.solvers.adams_bashforth import published_weights
from core.solvers.quadrature import lagrange_means
from core.specifications import from_specification, to_specification

F64 = torch.float64


def field_and_noise() -> tuple[core.MixtureField, Tensor]:
    field = core.MixtureField(
        torch.tensor([[-1.0], [0.4], [1.3]], dtype=F64), [0.3, 0.5, 0.2], [0.5, 0.35, 0.45], core.EDM()
    )
    return field, 0.6 * torch.randn(13, 1, generator=torch.Generator().manual_seed(1), dtype=F64)


def alternating(steps: int) -> Tensor:
    lengths = torch.tensor([1.0, 2.0] * (steps // 2), dtype=F64)
    return 0.6 - 0.55 * torch.cat([torch.zeros(1, dtype=F64), lengths.cumsum(0) / lengths.sum()])


def grid_of(name: str, steps: int) -> Tensor:
    return alternating(steps) if name == "alternating" else core.build_grid(name, steps, 0.6, 0.05)


def order_of(solver: core.Solver, grid: str) -> float:
    field, x = field_and_noise()
    errors = []
    for steps in (64, 128):
        nodes = grid_of(grid, steps)
        exact = field.flow(x, nodes[0], nodes[-1])
        errors.append(float((core.integrate(field, solver, x, nodes).x - exact).square().mean().sqrt()))
    return float(np.log2(errors[0] / errors[1]))


@pytest.mark.parametrize("grid", ["uniform", "quadratic", "alternating"])
@pytest.mark.parametrize(
    ("start", "solver", "order"),
    [
        ("euler", core.AdamsBashforth(3), 2),
        ("heun", core.AdamsBashforth(2), 2),
        ("heun", core.AdamsBashforth(3), 3),
        ("rk4", core.AdamsBashforth(3), 3),
        ("rk4", core.AdamsBashforth(4), 4),
        ("heun", core.DEIS(3), 3),
        ("rk4", core.DEIS(4), 4),
    ],
    ids=str,
)
def test_a_good_start_keeps_the_order(
    start: str, solver: core.AdamsBashforth | core.DEIS, order: int, grid: str
) -> None:
    started = core.Started(core.build_solver(start), solver)
    assert started.order == order
    assert order_of(started, grid) == pytest.approx(order, abs=0.15)


def test_ipndm_gains_nothing_where_steps_are_uneven() -> None:
    started = core.Started(core.build_solver("rk4"), core.IPNDM(4))
    assert started.order == 2
    assert order_of(started, "quadratic") == pytest.approx(2, abs=0.15)
    assert order_of(started, "uniform") == pytest.approx(4, abs=0.15)


@pytest.mark.parametrize(("order", "afs"), [(1, False), (2, False), (3, False), (4, False), (3, True)])
def test_evaluations_are_counted_and_none_is_made_twice(order: int, afs: bool) -> None:
    field, x = field_and_noise()
    seen: list[float] = []

    class Spy:
        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append(float(t))
            return field(x, t)

        def analytic_velocity(self, x: Tensor, t: Tensor) -> Tensor:
            return field.analytic_velocity(x, t)

    solver = core.Started(core.build_solver("heun"), core.AdamsBashforth(order))
    state = core.integrate(Spy(), solver, x, core.build_grid("uniform", 7, 0.6, 0.05), afs)
    assert state.nfe == len(seen) == 7 + (order - 1) - afs
    assert len(state.buffer) == solver.memory == order


def test_after_the_start_the_history_is_that_of_the_nodes() -> None:
    field, x = field_and_noise()
    grid = core.build_grid("quadratic", 5, 0.6, 0.05)
    states = list(core.trajectory(field, core.Started(core.build_solver("heun"), core.AdamsBashforth(3)), x, grid))
    assert [float(e.t) for e in states[4].buffer] == grid[[3, 2, 1]].tolist()
    for evaluation, state in zip(states[4].buffer, (states[3], states[2], states[1]), strict=True):
        assert torch.equal(evaluation.x, state.x)


def test_a_grid_shorter_than_the_start_is_all_start() -> None:
    field, x = field_and_noise()
    grid, heun = core.build_grid("uniform", 2, 0.6, 0.05), core.build_solver("heun")
    started = core.integrate(field, core.Started(heun, core.DEIS(4)), x, grid)
    assert torch.equal(started.x, core.integrate(field, heun, x, grid).x)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="expected a multistep method to start, got Heun"):
        core.Started(core.Heun(), core.Heun())  # pyright: ignore
    with pytest.raises(ValueError, match="expected a start of known order, got DDPM"):
        core.Started(core.DDPM(core.VP()), core.AdamsBashforth(3))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_published_weights_are_exact_but_for_the_slips(count: int) -> None:
    even = torch.arange(0, -count, -1, dtype=F64)
    uneven = torch.tensor([0.0, 1.0, 3.5, 4.0], dtype=F64)[:count]
    same_even = torch.allclose(*(f(even, even[0], even[0] + 1) for f in (published_weights, lagrange_means)))
    end = torch.tensor(-0.7, dtype=F64)
    same_uneven = torch.allclose(*(f(uneven, uneven[0], end) for f in (published_weights, lagrange_means)))
    assert (same_even, same_uneven) == ((True, True), (True, False), (False, False))[count - 2]


@pytest.mark.parametrize("memory", [2, 3, 4])
def test_the_published_method_is_of_order_two_on_smooth_grids_only(memory: int) -> None:
    solver = core.build_solver("adams-bashforth", order=memory, reference_compatible=True)
    assert order_of(solver, "quadratic") == pytest.approx(solver.order, abs=0.15)
    assert order_of(solver, "alternating") == pytest.approx(0 if memory == 4 else 2, abs=0.15)


KEY = re.compile(r"ipndmv(\d)\|(\w+)\|afs([01])\|nfe(\d+)\|(r2|img8)\|f64$")
NAMES = {"poly7": "karras", "logsnr": "logsnr", "tu1": "vp-uniform", "tu2": "vp-quadratic"}


def test_published_numbers_of_ipndm_v(shared: Path) -> None:
    with np.load(shared / "golden" / "golden_solvers.npz") as arrays:
        kept = [name for name in arrays.files if name.startswith(("ipndmv", "gmm/", "latents_unit/"))]
        golden = {name: torch.from_numpy(arrays[name]) for name in kept}
    found = [match for name in golden if (match := KEY.match(name))]
    assert len(found) >= 60
    for match in found:
        afs, nfe = int(match[3]), int(match[4])
        field = core.MixtureField(*(golden[f"gmm/{match[5]}/{part}"] for part in ("means", "weights", "stds")))
        grid = core.build_grid(NAMES[match[2]], nfe + afs, 80.0, 0.002, rho=7.0)
        solver = core.build_solver("adams-bashforth", order=int(match[1]), reference_compatible=True)
        state = core.integrate(field, solver, golden[f"latents_unit/{match[5]}"].double() * 80, grid, bool(afs))
        torch.testing.assert_close(state.x, golden[match[0]], rtol=1e-9, atol=1e-9)
        assert state.nfe == nfe


def test_it_is_written_down_and_read_back() -> None:
    solver = core.Started(core.build_solver("heun"), core.DEIS(3, core.VP(), reference_compatible=True))
    assert from_specification(json.loads(json.dumps(to_specification(solver)))) == solver
