"""DyWeight's ablations: each variant is what it is called, and on an exact field the parts do what the paper says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import core
from apps.solvers.fields import ring
from apps.solvers.studies.dyweight import (
    RunRecorded,
    Unshifted,
    Variant,
    coefficient_table,
    fit_variant,
    study_variants,
    transfer_errors,
    untrained,
)
from apps.solvers.studies.fitted import Training, errors
from apps.solvers.studies.problems import PATH_SUBSTEPS, Problem, Rollout
from core.intervals import bootstrap_mean
from core.supervision import Example

F64 = torch.float64
SHORT = Training(iterations=3, rate=1e-2, batch=5)
FEW = Variant(nfe=2, pairs=7, teacher=Rollout(steps=12))


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem(ring(), (2, 1, 1), held_out=96)


@pytest.fixture(scope="module")
def gaussian() -> Problem:
    """One component: the flow is known in closed form."""
    field = core.MixtureField(torch.tensor([[[[0.3]], [[-0.2]], [[0.1]]]], dtype=F64), [1.0], 0.5)
    return Problem(field, (3, 1, 1), held_out=11)


def test_held_out_endpoints_are_those_of_the_flow(gaussian: Problem) -> None:
    first, last = (torch.tensor(time, dtype=F64) for time in gaussian.ends)
    exact = gaussian.field.flow(gaussian.held_out.x_T, first, last)  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(gaussian.held_out.endpoint, exact, rtol=0, atol=1e-4)
    assert gaussian.held_out.x_T.std() == pytest.approx(80, rel=0.3)


def test_pairs_are_a_teachers_and_apart_from_those_held_out(gaussian: Problem) -> None:
    teacher = Rollout("heun", 9, None)
    pairs = gaussian.pairs(4, 2, teacher)
    grid = core.build_grid("karras", 9, *gaussian.ends)
    expected = core.integrate(gaussian.field, core.build_solver("heun"), pairs.x_T, grid).x
    assert torch.equal(pairs.endpoint, expected)
    assert gaussian.pairs(4, 2, teacher).endpoint is pairs.endpoint  # kept
    assert not torch.isin(pairs.x_T, gaussian.held_out.x_T).any()
    assert not torch.equal(gaussian.pairs(4, 3, teacher).x_T, pairs.x_T)
    assert gaussian.pool.endpoint.shape == (1024, 3, 1, 1)


def test_paths_are_the_teachers_states_at_the_nodes(gaussian: Problem) -> None:
    nodes = Variant(nfe=2).nodes(gaussian)
    path = gaussian.pairs(4, 0, Rollout(), nodes).endpoint
    assert path.shape == (4, len(nodes) - 1, 3, 1, 1)
    x = gaussian.noise(4, 1)
    for step, node in enumerate(nodes[1:]):
        exact = gaussian.field.flow(x, nodes[0], node)  # pyright: ignore[reportAttributeAccessIssue]
        off = (path[:, step] - exact).norm() / exact.norm()
        assert off < 0.05, (step, PATH_SUBSTEPS)


@pytest.mark.parametrize("nfe", [3, 5])
def test_before_training_it_is_ipndm(problem: Problem, nfe: int) -> None:
    variant = Variant(nfe=nfe)
    expected = errors(core.IPNDM(3), problem, variant.nodes(problem), afs=True)
    torch.testing.assert_close(untrained(problem, variant).errors[0], expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(
        untrained(problem, replace(variant, shift=False)).errors[0], untrained(problem, variant).errors[0]
    )


def test_starts_and_histories_are_what_they_are_called(problem: Problem) -> None:
    uniform = coefficient_table(replace(Variant(), start="uniform", history=0).build(problem))
    assert uniform.shape == (4, 6)
    torch.testing.assert_close(
        uniform[2], torch.tensor([torch.nan, 1 / 3, 1 / 3, 1 / 3, 1, 1], dtype=F64), equal_nan=True
    )
    euler = replace(Variant(), start="euler").build(problem)
    assert coefficient_table(euler)[3].tolist() == [0, 0, 1, 1, 1]
    assert replace(Variant(), history=2).build(problem).memory == 2
    assert euler.memory == 3
    assert len(replace(Variant(), afs=False).nodes(problem)) == 4


def test_a_table_of_coefficients_has_weights_by_age_their_sum_and_the_scale(problem: Problem) -> None:
    solver = Variant(nfe=2).build(problem)
    with torch.no_grad():
        solver.weights.copy_(torch.tensor([[1.5, 9, 9], [-0.5, 2, 9], [0.1, -0.3, 1.1]], dtype=F64))  # 9: off the band
        solver.time_scale.copy_(torch.tensor([7, 0.9, 1.1], dtype=F64))
    nan = torch.nan
    expected = [[nan, nan, 1.5, 1.5, nan], [nan, -0.5, 2, 1.5, 0.9], [0.1, -0.3, 1.1, 0.9, 1.1]]
    torch.testing.assert_close(coefficient_table(solver), torch.tensor(expected, dtype=F64), equal_nan=True)


def test_without_shifting_the_network_is_told_the_nodes(problem: Problem) -> None:
    """Weights that do not sum to 1 move the state, and with shifting the time."""
    told: dict[bool, list[float]] = {True: [], False: []}
    for shift, times in told.items():
        variant = Variant(nfe=4, afs=False, shift=shift)
        solver = variant.build(problem)
        with torch.no_grad():
            solver.weights.mul_(0.9)

        def watched(x: torch.Tensor, t: torch.Tensor, times: list[float] = times) -> torch.Tensor:
            times.append(float(t))
            return problem.field(x, t)

        nodes = variant.nodes(problem)
        core.integrate(watched, solver.requires_grad_(False), problem.noise(2, 9), nodes, afs=False)
    nodes = Variant().nodes(problem)
    assert told[False] == nodes[:-1].tolist()
    assert told[True][1] == pytest.approx(float(nodes[0] + 0.9 * (nodes[1] - nodes[0])))
    assert isinstance(Variant(shift=False).build(problem), Unshifted)


def test_recorded_spreads_are_those_of_the_slopes(problem: Problem) -> None:
    """Of exact states with exact times a slope is the expected noise; a scaled time is taken out of it."""
    solver = Variant(nfe=3).build(problem)
    nodes, x = Variant(nfe=3).nodes(problem), problem.noise(64, 5)
    run = RunRecorded(True, [])
    end = run(solver, problem.field, Example(x, None, x), nodes)
    assert torch.equal(end, core.integrate(problem.field, solver, x, nodes, afs=True).x)
    assert run.spreads[0][0] == pytest.approx(float((x / (1 + 80**2) ** 0.5).std()))
    with torch.no_grad():
        solver.time_scale[1] = 0.8
    run(solver, problem.field, Example(x, None, x), nodes)
    states = list(core.trajectory(problem.field, core.IPNDM(3), x, nodes, afs=True))
    denoised = problem.field.data(states[1].x, 0.8 * nodes[1])  # pyright: ignore[reportAttributeAccessIssue]
    assert run.spreads[1][1] == pytest.approx(float(((states[1].x - denoised) / nodes[1]).std()))


@pytest.mark.parametrize(
    "changes", [{}, {"shift": False}, {"scale": False}, {"supervision": "path"}, {"afs": False}, {"grid": "logsnr"}]
)
def test_every_variant_trains_what_it_says(problem: Problem, changes: dict) -> None:
    variant = replace(FEW, **changes)
    before, fitted = variant.build(problem), fit_variant(problem, variant, SHORT)
    assert len(fitted.losses) == 3
    assert fitted.spreads.shape == ((0,) if variant.supervision == "path" else (3, variant.steps))
    assert not torch.equal(fitted.solver.weights, before.weights)
    assert torch.equal(fitted.solver.time_scale, before.time_scale) is not variant.scale
    again = fit_variant(problem, variant, SHORT)
    assert torch.equal(again.solver.weights, fitted.solver.weights)


def test_the_paper_is_right_about_shifting_the_path_and_the_start(problem: Problem) -> None:
    """Figure 6 and tables A.2 and A.3 on the ring, by endpoint error on held-out noise."""
    variants = {
        "paper": Variant(),
        "no shift": Variant(shift=False),
        "path": Variant(supervision="path"),
        "uniform": Variant(start="uniform"),
    }
    found = study_variants(problem, variants, Training(iterations=60, rate=2e-2, batch=48))
    start = untrained(problem, Variant())
    paper = found["paper"].errors.mean(0)
    assert float(paper.mean()) < 0.6 * float(start.errors.mean())
    for name in ("no shift", "path", "uniform"):
        assert bootstrap_mean(found[name].errors.mean(0) - paper).low > 0, name
    assert found["paper"].fitted[0].losses[-10:].mean() < 0.5 * found["paper"].fitted[0].losses[:10].mean()


def test_numbers_of_one_field_run_on_another(problem: Problem, gaussian: Problem) -> None:
    plain = Variant(nfe=2, afs=False)
    solvers = {"iPNDM": plain.build(problem), "other": plain.build(gaussian)}
    found = transfer_errors({"ring": problem, "gaussian": gaussian}, solvers, plain.nodes(problem))
    assert list(found) == ["ring", "gaussian"]
    assert found["gaussian"]["other"].shape == (11,)
    assert torch.equal(found["ring"]["iPNDM"], untrained(problem, plain).errors[0])
