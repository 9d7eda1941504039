"""GITS, DMN and AYS: against published numbers, against brute force, and against handmade grids at five steps."""

from __future__ import annotations

import itertools
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize
from torch import Tensor

import core
from core.searched_grids import ays, dmn, gits

F64 = torch.float64
STEPS = 5


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@cache
def mixture() -> core.MixtureField:
    means = 0.8 * torch.stack([torch.tensor([math.cos(a), math.sin(a), math.cos(2 * a)]) for a in (0.1, 1.3, 2.4, 4.0)])
    return core.MixtureField(means.double(), [0.4, 0.3, 0.2, 0.1], [0.1, 0.13, 0.16, 0.2])


@cache
def samples() -> Tensor:
    field = mixture()
    chosen = torch.multinomial(field.log_weights.exp(), 48, True, generator=torch.Generator().manual_seed(2))
    return field.means[chosen] + field.std[chosen, None] * normal(48, 3, seed=3)


@cache
def searched(name: str) -> Tensor:
    if name == "gits":
        grid = core.build_grid("karras", 40)
        return core.build_grid(name, STEPS, field=mixture(), x_T=80 * normal(32, 3, seed=4), teacher_grid=grid)
    if name == "ays":
        return core.build_grid(name, STEPS, field=mixture(), data=samples(), seed=0)
    return core.build_grid(name, STEPS)


@pytest.mark.parametrize("name", ["gits", "dmn", "ays"])
def test_searched_grids_beat_handmade_ones_for_euler_on_other_noise(name: str) -> None:
    field, x = mixture(), 80 * normal(200, 3, seed=5)
    exact = core.integrate(field, core.build_solver("rk4"), x, core.build_grid("karras", 80)).x

    def error(grid: Tensor) -> float:
        return float((core.integrate(field, core.Euler(), x, grid).x - exact).norm(dim=1).mean())

    handmade = {known: error(core.build_grid(known, STEPS)) for known in ("karras", "logsnr", "uniform")}
    assert error(searched(name)) < 0.9 * min(handmade.values()), handmade


@pytest.mark.parametrize("name", ["gits", "dmn", "ays"])
def test_they_are_grids_with_the_ends_asked_for(name: str) -> None:
    grid = searched(name)
    assert grid.shape == (STEPS + 1,)
    assert grid.dtype == F64
    assert bool((grid.diff() < 0).all())
    assert grid[[0, -1]].tolist() == pytest.approx([80.0, 0.002], rel=1e-12)


# GITS


def test_gits_finds_the_published_nodes(shared: Path) -> None:
    with np.load(shared / "golden" / "golden_solvers.npz") as arrays:
        golden = {name: arrays[name] for name in arrays.files if name.startswith(("gits/", "gmm/", "latents_unit/"))}
    grid, count = core.build_grid("karras", 20, 80.0, 0.002), 0
    for name in ("r2", "img8"):
        field = core.MixtureField(*(torch.from_numpy(golden[f"gmm/{name}/{p}"]) for p in ("means", "weights", "stds")))
        x = torch.from_numpy(golden[f"latents_unit/{name}"]).double() * 80
        run = gits.teacher_run(field, x, grid, core.IPNDM(4))
        for metric in ("l1", "l2", "dev"):
            cost = gits.costs(run, core.TimeChart(), metric)
            expected = torch.from_numpy(golden[f"gits/{name}/{metric}/cost"])
            torch.testing.assert_close(cost, expected, rtol=1e-9, atol=1e-12)
            for key in golden:
                found = re.match(rf"gits/{name}/{metric}/num_steps(\d+)/coeff([\d.]+)$", key)
                if found:
                    assert gits.shortest(cost, int(found[1]) - 1, float(found[2])) == golden[key].tolist()
                    count += 1
    assert count >= 30
    key = "gits/r2/dev/num_steps6/coeff1.15"
    field = core.MixtureField(*(torch.from_numpy(golden[f"gmm/r2/{p}"]) for p in ("means", "weights", "stds")))
    x = torch.from_numpy(golden["latents_unit/r2"]).double() * 80
    found = core.build_grid("gits", 5, field=field, x_T=x, teacher_grid=grid, metric="dev", discount=1.15)
    assert torch.equal(found, grid[golden[key]])


@pytest.mark.parametrize("discount", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("jumps", [1, 2, 4, 7])
def test_dynamic_programming_is_as_good_as_trying_all(jumps: int, discount: float) -> None:
    cost = normal(8, 8, seed=jumps)

    def total(path: tuple[int, ...]) -> float:
        return sum(discount**k * float(cost[a, b]) for k, (a, b) in enumerate(itertools.pairwise(path)))

    paths = [(0, *inner, 7) for inner in itertools.combinations(range(1, 7), jumps - 1)]
    assert tuple(gits.shortest(cost, jumps, discount)) == min(paths, key=total)


def test_gits_for_an_analytic_first_step_adds_the_best_free_node() -> None:
    field, x, fine = mixture(), 80 * normal(16, 3, seed=6), core.build_grid("karras", 20)
    plain = core.build_grid("gits", 3, field=field, x_T=x, teacher_grid=fine)
    grid = core.build_grid("gits", 4, field=field, x_T=x, teacher_grid=fine, afs=True)
    teacher = core.integrate(field, core.IPNDM(4), x, fine).x
    assert grid[[0, 2, 3, 4]].tolist() == plain.tolist()

    def error(node: float) -> float:
        nodes = torch.tensor([80.0, node, *plain[1:].tolist()], dtype=F64)
        state = core.integrate(field, core.Euler(), x, nodes, afs=True)
        assert state.nfe == 3
        return float((state.x - teacher).norm(dim=1).mean())

    between = [t for t in fine.tolist() if plain[1] < t < 80]
    assert float(grid[1]) == min(between, key=error)


def test_gits_jumps_in_the_chart_of_a_vp_model() -> None:
    """A VP model and its variance-exploding rescaling have the same jumps, times alpha."""
    vp, edm = core.VP(), mixture()
    field = core.MixtureField(edm.means, edm.log_weights.exp(), edm.std, vp)
    fine = core.build_grid("logsnr", 8, schedule=vp)
    x, alpha, chart = vp.ratio(1.0) * normal(16, 3, seed=7), vp(fine).alpha, core.NoiseChart(vp)
    run = gits.teacher_run(field, alpha[0] * x, fine, core.IPNDM(4, chart))
    there = gits.teacher_run(edm, x, vp.ratio(fine), core.IPNDM(4))
    cost = gits.costs(run, chart, "l2")
    torch.testing.assert_close(cost, alpha * gits.costs(there, core.TimeChart(), "l2"), rtol=1e-7, atol=1e-9)
    grid = core.build_grid("gits", 3, field=field, x_T=alpha[0] * x, teacher_grid=fine)
    assert torch.equal(grid, fine[gits.shortest(cost, 3, 1.15)])


# DMN


@pytest.mark.parametrize("steps", [3, 4, 5, 6, pytest.param(8, marks=pytest.mark.slow)])
def test_dmn_reaches_the_published_bound(shared: Path, steps: int) -> None:
    with np.load(shared / "golden" / "golden_solvers.npz") as arrays:
        published = arrays[f"dmn/edm/N{steps}"]
    grid = core.build_grid("dmn", steps, 80.0, 0.002)
    assert dmn.bound(-grid.log().numpy()) <= 1.01 * dmn.bound(-np.log(published))
    if steps <= 6:
        np.testing.assert_allclose(grid.numpy(), published, rtol=1e-2)


@pytest.mark.parametrize("power", [1, 2])
def test_the_bound_of_two_and_three_steps_by_hand(power: int) -> None:
    """Orders 1, 1 and 1, 2, 1, with the integrals of the Lagrange basis by adaptive quadrature."""
    nodes = np.array([-2.0, -0.3, 0.5, 1.7])
    alpha = 1 / np.sqrt(1 + np.exp(-2 * nodes))
    error = (1 / np.sqrt(1 + np.exp(2 * nodes))) ** power / alpha
    first = error[0] * (math.exp(nodes[1]) - math.exp(nodes[0]))
    assert dmn.bound(nodes[:3], power) == pytest.approx(first + error[1] * (math.exp(nodes[2]) - math.exp(nodes[1])))
    old, new = (
        quad(lambda s, a=a, b=b: math.exp(s) * (s - b) / (a - b), nodes[1], nodes[2])[0]
        for a, b in ((nodes[0], nodes[1]), (nodes[1], nodes[0]))
    )
    middle = math.hypot(error[0] * old, error[1] * new)
    last = error[2] * (math.exp(nodes[3]) - math.exp(nodes[2]))
    assert dmn.bound(nodes, power) == pytest.approx(first + middle + last, rel=1e-9)


def test_weights_of_third_order_are_integrals_of_the_basis() -> None:
    nodes, end = np.array([-1.0, 0.2, 0.5]), 1.4

    def part(j: int) -> float:
        others = [node for node in nodes if node != nodes[j]]
        return quad(lambda s: math.exp(s) * np.prod([(s - n) / (nodes[j] - n) for n in others]), nodes[-1], end)[0]

    np.testing.assert_allclose(dmn._integrals(nodes, end), [part(j) for j in range(3)], rtol=1e-9)


def test_dmn_of_one_step_and_of_latents() -> None:
    assert core.build_grid("dmn", 1).tolist() == [80.0, 0.002]
    vp = core.VP()
    grids = [core.build_grid("dmn", 4, power=power, schedule=vp) for power in (1, 2)]
    assert not torch.allclose(*grids, rtol=1e-2)


# AYS


def gaussian(schedule: core.Schedule | None = None) -> tuple[core.MixtureField, Tensor]:
    field = core.MixtureField(torch.tensor([[0.3, -0.2]], dtype=F64), [1.0], 0.5, schedule)
    return field, field.means + 0.5 * normal(400, 2, seed=8)


def gaussian_share(s: float, s_next: float) -> float:
    """E |D(x_r, r) - D(x_s, s)|^2 of a Gaussian of variance v is v^2 / (v + r^2) - v^2 / (v + s^2) for each value."""
    v = 0.25

    def primitive(r: float) -> float:
        return math.log1p(v / r**2) / v**2 - 1 / (v * r**2) + 1 / ((v + s**2) * r**2)

    return 2 * v**2 * (primitive(s) - primitive(s_next)) / 2


@pytest.mark.parametrize("schedule", [None, core.VP(), core.RectifiedFlow()], ids=str)
def test_the_divergence_of_a_gaussian_is_what_theory_says(schedule: core.Schedule | None) -> None:
    field, data = gaussian(schedule)
    divergence = ays.Divergence(field, field.schedule, data, seed=0, resolution=0.0)
    for s, s_next in ((20.0, 1.0), (1.0, 0.2), (0.1, 0.03)):
        assert divergence(s, s_next) == pytest.approx(gaussian_share(s, s_next), rel=0.15)


def test_below_the_resolution_nothing_counts() -> None:
    field, data = gaussian()
    divergence = ays.Divergence(field, field.schedule, data, seed=0, resolution=0.2)
    assert divergence(0.2, 0.01) == 0
    assert divergence(1.0, 0.01) == divergence(1.0, 0.2) > 0


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_the_search_finds_the_least_sum(steps: int) -> None:
    first, last = 10.0, 0.05
    found = ays.search(gaussian_share, first, last, steps).numpy()

    def total(inner: np.ndarray) -> float:
        nodes = np.concatenate([[first], np.exp(np.sort(inner)[::-1]), [last]])
        return sum(gaussian_share(a, b) for a, b in itertools.pairwise(nodes))

    start = np.linspace(math.log(first), math.log(last), steps + 1)[1:-1]
    best = minimize(total, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-4, "maxfev": 400}).fun
    assert total(np.log(found[1:-1])) <= 1.02 * best
    assert total(np.log(found[1:-1])) < 0.9 * total(start)


def test_ays_is_reproducible_and_its_seed_is_used() -> None:
    field, data = mixture(), samples()[:8]
    first, again, other = (core.build_grid("ays", 3, field=field, data=data, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


FIELD = gaussian()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gits"}, "expected field for 'gits', got none; pass the model's velocity field"),
        ({"name": "gits", "field": FIELD}, "expected x_T for 'gits', got none; pass initial states at t_max"),
        ({"name": "ays", "field": FIELD}, "expected data for 'ays', got none; pass samples"),
        ({"name": "karras", "seed": 1}, "expected no seed for 'karras', got one; it takes none of a searched grid"),
        ({"name": "dmn", "field": FIELD}, "expected no field for 'dmn', got one; it takes power"),
        ({"name": "dmn", "schedule": core.RectifiedFlow()}, "expected finite log-SNR at both ends"),
        (
            {"name": "ays", "field": FIELD, "data": torch.ones(3, 2)},
            "expected two samples of data or more, that differ",
        ),
        ({"name": "gits", "field": FIELD, "x_T": torch.ones(3, 2), "metric": "l3"}, "a metric among l1, l2, dev"),
        ({"name": "gits", "field": FIELD, "x_T": torch.ones(3, 2), "discount": 0.0}, "a positive discount"),
        (
            {"name": "gits", "field": FIELD, "x_T": torch.ones(3, 2), "teacher_grid": core.build_grid("karras", 4)},
            "expected 1 to 4 steps, .*, got 5, 'l2' and 1.15; a finer teacher_grid allows more steps",
        ),
    ],
)
def test_impossible_wishes_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.build_grid(steps=5, **arguments)
