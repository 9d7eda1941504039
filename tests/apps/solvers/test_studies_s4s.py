"""Variants of S4S: what each learns and leaves alone, and that the findings of the studies are found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import core
from apps.solvers.fields import FIELDS
from apps.solvers.studies.fitted import Exact, Training, distance, endpoints, errors, exact_task, fit, squared
from apps.solvers.studies.rows import frame, interval, percent, row
from apps.solvers.studies.s4s import S4SStudy, Variant, build, coefficients
from apps.solvers.studies.s4s_pictures import coefficient_paths, study_radius
from core.intervals import Interval
from core.solvers.ipndm import IPNDM, WEIGHTS
from core.solvers.learned.s4s_lms import S4SMultistep
from core.solvers.learned.s4s_ss import S4SSingleStep

GRID = core.build_grid("karras", 4, 80.0, 0.002)
HALF = GRID[::2]
SHORT = Training(iterations=40, batch=10)


@pytest.fixture(scope="module")
def task() -> Exact:
    return exact_task("ring", pairs=60, held_out=48)


@pytest.fixture(scope="module")
def study(task: Exact) -> S4SStudy:
    return S4SStudy(task, SHORT, rounds=2)


def test_an_exact_task_has_exact_endpoints(task: Exact) -> None:
    assert task.pool.x_T.shape == (60, 2, 1, 1)
    assert task.held_out.endpoint.shape == (48, 2, 1, 1)
    mixture, t = FIELDS["ring"](None), torch.tensor(0.7, dtype=torch.float64)
    torch.testing.assert_close(task.field(task.pool.x_T, t), mixture(task.pool.x_T, t))
    fine = core.integrate(mixture, core.RK4(), task.pool.x_T, core.build_grid("karras", 200, 80.0, 0.002)).x
    torch.testing.assert_close(task.pool.endpoint, fine, rtol=0, atol=1e-3)
    again = exact_task("ring", pairs=60, held_out=48, seed=1)
    assert not torch.equal(again.pool.x_T, task.pool.x_T)


def test_distances_are_root_mean_squares_of_samples(task: Exact) -> None:
    solver = IPNDM(2)
    off = endpoints(solver, task, GRID) - task.held_out.endpoint
    expected = torch.tensor([float(one.square().mean()) ** 0.5 for one in off], dtype=torch.float64)
    torch.testing.assert_close(errors(solver, task, GRID), expected)
    end = endpoints(solver, task, GRID)
    torch.testing.assert_close(distance(end, task.held_out), expected.mean())
    torch.testing.assert_close(squared(end, task.held_out), expected.square().mean())


LEARNED = [
    Variant(),
    Variant(order=None),
    Variant(tied=True),
    Variant("alternating"),
    Variant("joint", tied=True),
    Variant(base="dpm-solver++"),
    Variant(base="unipc"),
    Variant(base="dpm-solver-2"),
    Variant(base="dpm-solver-2", consistent=True),
]


@pytest.mark.parametrize("variant", LEARNED, ids=str)
def test_untrained_variants_are_their_base(variant: Variant, task: Exact) -> None:
    base = build(replace(variant, learned="nothing"), GRID)
    assert torch.equal(endpoints(build(variant, GRID), task, GRID), endpoints(base, task, GRID))


def numbers(solver: core.Solver) -> int:
    assert isinstance(solver, nn.Module)
    return sum(p.numel() for p in solver.parameters())


def test_counts_of_learned_numbers() -> None:
    assert numbers(build(Variant(), GRID)) == 9
    assert numbers(build(Variant(order=None), GRID)) == 10
    assert numbers(build(Variant(tied=True), GRID)) == 3
    assert numbers(build(Variant("joint"), GRID)) == 9 + 10


def test_coefficients_are_those_of_ipndm_plus_what_is_learned(task: Exact) -> None:
    solver = build(Variant(), GRID)
    assert isinstance(solver, S4SMultistep)
    found = coefficients(solver)
    for step, count in enumerate((1, 2, 3, 3)):
        assert found[step].tolist() == [*WEIGHTS[count - 1], *[0.0] * (3 - count)]
    drawn = build(Variant(gaussian=True), GRID, seed=3)
    assert isinstance(drawn, S4SMultistep)
    expected = torch.randn(9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    table = coefficients(drawn)
    torch.testing.assert_close(torch.cat([table[0, :1], table[1, :2], table[2], table[3]]), expected)
    evaluated = list(core.trajectory(task.field, drawn, task.pool.x_T, GRID))
    before, after = evaluated[2], evaluated[3]
    slopes = torch.stack([one.velocity for one in after.buffer])
    by_hand = before.x + (GRID[3] - GRID[2]) * torch.einsum("k,k...->...", table[2], slopes)
    torch.testing.assert_close(after.x, by_hand)


def test_tied_numbers_serve_all_steps_and_consistent_weights_keep_their_sum(study: S4SStudy) -> None:
    tied = study.trained(Variant(tied=True), GRID, 0)
    assert isinstance(tied, S4SMultistep)
    added = coefficients(tied) - coefficients(build(Variant(), GRID))  # pyright: ignore
    assert float(added[3].abs().min()) > 0
    for step, count in enumerate((1, 2, 3)):
        torch.testing.assert_close(added[step, :count], added[3, :count])
    free, consistent = (study.trained(Variant(base="dpm-solver-2", consistent=kept), HALF, 0) for kept in (False, True))
    assert isinstance(free, S4SSingleStep)
    assert isinstance(consistent, S4SSingleStep)
    assert float(consistent.b.detach().abs().max()) > 1e-3
    torch.testing.assert_close(consistent.b.detach().sum(1), torch.zeros(2, dtype=torch.float64))
    assert float(free.b.detach().sum(1).abs().min()) > 1e-3


@pytest.mark.parametrize("wrong", [Variant(base="unipc", tied=True), Variant(consistent=True)])
def test_variants_that_make_no_sense_are_refused(wrong: Variant) -> None:
    with pytest.raises(ValueError, match="base of"):
        build(wrong, GRID)


def test_a_table_has_a_row_for_each_variant_that_takes_the_calls(study: S4SStudy) -> None:
    base = Variant("nothing")
    rows = study.table({"base": base, "six": Variant(order=6), "S4S": Variant()}, (3, 4), ("karras", "gits"))
    assert [(r.group, r.method, r.nfe) for r in rows if r.method != "base"] == [
        (grid, "S4S", nfe) for grid in ("karras", "gits") for nfe in (3, 4)
    ]
    for found in rows:
        assert (found.gain is None) == (found.method == "base")
        assert found.error.low <= found.error.mean <= found.error.high
    learned = next(r for r in rows if r[:3] == ("karras", "S4S", 4))
    assert learned.gain is not None
    assert learned.gain.low > 0
    shown = frame(rows)
    assert list(shown.columns) == ["NFE 3", "NFE 4"]
    assert shown.loc[("karras", "S4S"), "NFE 4"] == interval(learned.error)
    assert frame(rows, gains=True).loc[("karras", "S4S"), "NFE 4"] == percent(learned.gain)
    assert study.errors(Variant(), "karras", 4) is study.errors(Variant(), "karras", 4)  # trained once
    torch.testing.assert_close(study.errors(base, "karras", 4)[0], errors(IPNDM(3), study.task, GRID))


def test_gains_are_paired() -> None:
    worse = torch.tensor([[1.0, 3.0, 2.0]])
    found = row("", "half", 3, worse / 2, worse)
    assert found.gain is not None
    assert found.gain.mean == pytest.approx(0.5)
    assert found.error.mean == pytest.approx(1)
    assert percent(Interval(0.5, 0.4, 0.61)) == "50 % [40, 61]"


@pytest.mark.parametrize("learned", ["alternating", "joint"])
def test_learned_times_help_coefficients(study: S4SStudy, learned) -> None:
    assert study.errors(Variant(learned), "karras", 4).mean() < study.errors(Variant("nothing"), "karras", 4).mean()


def test_learned_times_are_a_grid_on_which_the_base_is_better(study: S4SStudy) -> None:
    grid = study.grid("ld3", 4)
    assert (grid[0], grid[-1]) == (80.0, 0.002)
    assert bool((grid.diff() < 0).all())
    base = Variant("nothing")
    assert study.errors(base, "ld3", 4).mean() < study.errors(base, "karras", 4).mean()


def test_paths_go_from_ipndm_to_the_learned_coefficients(study: S4SStudy) -> None:
    paths = coefficient_paths(study, 4, seeds=(0, 1))
    assert paths.epochs.shape == (2, 7, 4, 3)  # 6 batches an epoch, 40 iterations: the seventh is cut short
    trained = study.trained(Variant(relaxed=True), GRID, 1)
    assert isinstance(trained, S4SMultistep)
    assert torch.equal(paths.final[1], coefficients(trained))
    assert torch.equal(paths.start, coefficients(build(Variant(), GRID)))  # pyright: ignore
    assert not torch.equal(paths.epochs[0], paths.epochs[1])


def test_a_larger_ball_makes_the_objective_easier(study: S4SStudy) -> None:
    plain, small, large = study_radius(study, (0.0, 1e-3, 0.05), nfe=4)
    assert plain.relaxed == plain.training
    assert small.radius == 1e-3
    assert large.relaxed.high < plain.relaxed.mean
    assert large.training.mean > large.relaxed.mean


def test_other_pairs_and_fewer_of_them(task: Exact) -> None:
    solver = build(Variant(), GRID)
    assert isinstance(solver, nn.Module)
    still = core.Example(task.pool.x_T, None, endpoints_of(solver, task))
    fit(solver, task, GRID, SHORT, pairs=still)
    torch.testing.assert_close(solver.weights.values.detach(), torch.zeros(9, dtype=torch.float64))  # nothing to learn
    one, two = (fit(build(Variant(), GRID), task, GRID, Training(5, batch=5, pairs=n)) for n in (5, 60))  # pyright: ignore
    assert not torch.equal(one.weights.values, two.weights.values)


def endpoints_of(solver, task: Exact) -> torch.Tensor:
    with torch.no_grad():
        return core.integrate(task.field, solver, task.pool.x_T, GRID).x
