"""The sampling loop: states, buffers, counting of evaluations, precision, gradients, refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import core

F64 = torch.float64
SOLVERS: list[tuple[str, dict[str, Any], int]] = [
    ("euler", {}, 1),
    ("ddim", {"schedule": core.EDM()}, 1),
    ("ddpm", {"schedule": core.EDM()}, 1),
    ("heun", {}, 2),
    ("rk4", {}, 4),
    ("dpm-solver-2", {}, 2),
    ("dpm-solver++", {"order": 3}, 1),
    ("unipc", {"order": 3}, 1),
    ("ipndm", {"order": 3}, 1),
    ("adams-bashforth", {"order": 4}, 1),
    ("deis", {"order": 3}, 1),
]


class Spy:
    """A field that records its calls."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls.append((x, t))
        velocity = x.sin() / (1 + t)
        return velocity if self.dtype is None else velocity.to(self.dtype)

    def analytic_velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return x / 2


def start(dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=F64).to(dtype)


def grid(steps: int = 5) -> Tensor:
    return core.build_grid("karras", steps, 4.0, 0.01)


FOR_A_GRID = {"grid": grid()}
OVER_IPNDM = {"base": core.IPNDM(2), **FOR_A_GRID}
LEARNED: list[tuple[str, dict[str, Any], int]] = [
    *((name, OVER_IPNDM, 1) for name in ("dyweight", "ld3", "s4s-lms", "s4s-alt", "dlms")),
    ("s4s-pc", {"base": core.UniPC(2), **FOR_A_GRID}, 1),
    ("bns", {"base": core.Euler(), **FOR_A_GRID}, 1),
    ("s4s-ss", {"base": core.Heun(), **FOR_A_GRID}, 2),
    ("amed", FOR_A_GRID, 2),
    ("amed-plugin", OVER_IPNDM, 2),
    ("epd", FOR_A_GRID, 3),
    ("epd-plugin", OVER_IPNDM, 3),
    ("spanlift", {"base": core.IPNDM(2), "operator": core.ScalarConfig(5)}, 1),
]


def test_the_tables_cover_every_solver() -> None:
    with_statistics_of_their_model = {"dpm-solver-v3"}
    assert {name for name, *_ in SOLVERS + LEARNED} | with_statistics_of_their_model == set(core.SOLVERS)


@pytest.mark.parametrize(("name", "options", "cost"), SOLVERS + LEARNED)
@pytest.mark.parametrize("afs", [False, True])
def test_nfe_is_what_a_spy_counts(name: str, options: dict[str, Any], cost: int, afs: bool) -> None:
    spy = Spy()
    state = core.integrate(spy, core.build_solver(name, **options), start(), grid(), afs)
    assert state.nfe == len(spy.calls) == 5 * cost - afs
    assert all(x.shape == (3, 2, 5) and x.dtype == F64 for x, _ in spy.calls)
    assert all(t.shape == () and t.dtype == F64 for _, t in spy.calls)


@pytest.mark.parametrize(("name", "options", "cost"), SOLVERS)
def test_a_step_to_zero_noise_costs_one_evaluation(name: str, options: dict[str, Any], cost: int) -> None:
    spy = Spy()
    state = core.integrate(spy, core.build_solver(name, **options), start(), core.build_grid("karras", 5, 4.0, 0.0))
    assert state.nfe == len(spy.calls) == 4 * cost + 1
    assert min(float(t) for _, t in spy.calls) > 0
    assert bool(torch.isfinite(state.x).all())


@pytest.mark.parametrize(("name", "options", "cost"), SOLVERS + LEARNED)
def test_guided_fields_count_their_own_calls(name: str, options: dict[str, Any], cost: int) -> None:
    spy = Spy()
    spy.evaluations_per_call = 2  # pyright: ignore[reportAttributeAccessIssue]
    assert core.integrate(spy, core.build_solver(name, **options), start(), grid()).nfe == 2 * 5 * cost


@pytest.mark.parametrize(("name", "options", "cost"), SOLVERS + LEARNED)
@pytest.mark.parametrize(
    ("given", "kept"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32, torch.float32), (F64, F64)],
)
def test_states_are_never_in_low_precision(
    name: str, options: dict[str, Any], cost: int, given: torch.dtype, kept: torch.dtype
) -> None:
    states = list(core.trajectory(Spy(torch.bfloat16), core.build_solver(name, **options), start(given), grid()))
    assert {state.x.dtype for state in states} == {kept}
    assert {evaluation.velocity.dtype for evaluation in states[-1].buffer} == {kept}


def test_a_trajectory_starts_with_the_initial_state() -> None:
    states = list(core.trajectory(Spy(), core.build_solver("euler"), start(), grid()))
    assert [state.step for state in states] == [0, 1, 2, 3, 4, 5]
    assert [state.nfe for state in states] == [0, 1, 2, 3, 4, 5]
    torch.testing.assert_close(torch.stack([state.t for state in states]), grid())
    torch.testing.assert_close(states[0].x, start())
    assert states[0].buffer == ()
    end = core.integrate(Spy(), core.build_solver("euler"), start(), grid())
    assert torch.equal(states[-1].x, end.x)


@pytest.mark.parametrize(("name", "options", "cost"), SOLVERS)
def test_buffers_hold_the_latest_evaluations_newest_first(name: str, options: dict[str, Any], cost: int) -> None:
    solver = core.build_solver(name, **options)
    states = list(core.trajectory(Spy(), solver, start(), grid()))
    for step, state in enumerate(states):
        assert len(state.buffer) == min(step, solver.memory)
        for back, evaluation in enumerate(state.buffer):
            assert evaluation.x is states[step - 1 - back].x
            assert evaluation.t is states[step - 1 - back].t


def test_an_analytic_start_enters_the_buffer_and_is_not_evaluated() -> None:
    spy = Spy()
    states = list(core.trajectory(spy, core.build_solver("ipndm", order=2), start(), grid(), afs=True))
    torch.testing.assert_close(states[1].buffer[0].velocity, start() / 2)
    torch.testing.assert_close(states[1].x, start() + (grid()[1] - grid()[0]) * start() / 2)
    assert len(states[2].buffer) == 2
    assert states[2].buffer[1] is states[1].buffer[0]


def test_push_keeps_what_is_there_already() -> None:
    one, two, three = (core.Evaluation(torch.tensor(float(i)), start(), start()) for i in range(3))
    assert core.push(one, (two, three), 2) == (one, two)
    assert core.push(one, (one, two, three), 2) == (one, two)
    assert core.push(one, (), 1) == (one,)


def test_observe_asks_only_for_what_is_unknown() -> None:
    spy, t = Spy(), torch.tensor(0.5, dtype=F64)
    state = core.State(start(), t, 0, (), 0)
    evaluation, calls = core.observe(spy, state)
    assert calls == 1
    known = core.State(state.x, t, 0, (evaluation,), 0)
    assert core.observe(spy, known) == (evaluation, 0)
    moved = core.State(state.x + 1, t, 0, (evaluation,), 0)
    assert core.observe(spy, moved)[1] == 1


@pytest.mark.parametrize(("name", "options", "cost"), SOLVERS)
def test_gradients_pass_through_a_rollout(name: str, options: dict[str, Any], cost: int) -> None:
    solver, direction, h = core.build_solver(name, **options), start().cos(), 1e-6
    x = start().requires_grad_()
    endpoint = core.integrate(Spy(), solver, x, grid()).x
    (gradient,) = torch.autograd.grad(endpoint.square().sum(), x)
    with torch.no_grad():
        above, below = (core.integrate(Spy(), solver, x + d * direction, grid()).x.square().sum() for d in (h, -h))
    assert float((gradient * direction).sum()) == pytest.approx(float((above - below) / (2 * h)), rel=1e-6)
    assert not above.requires_grad


@pytest.mark.parametrize("name", ["euler", "heun", "ipndm", "adams-bashforth"])
@pytest.mark.parametrize("schedule", [None, core.VP()])
def test_gradients_pass_to_a_learned_grid(name: str, schedule: core.Schedule | None) -> None:
    solver, field = (
        core.build_solver(name, schedule=schedule),
        core.MixtureField(start(), [1.0, 2.0, 3.0], 0.5, core.VP()),
    )
    nodes = core.build_grid("uniform", 5, 0.9, 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(core.integrate(field, solver, start(), nodes).x.square().sum(), nodes)
    bump, h = torch.zeros(6, dtype=F64), 1e-6
    bump[2] = h
    with torch.no_grad():
        above, below = (core.integrate(field, solver, start(), nodes + d).x.square().sum() for d in (bump, -bump))
    assert float(gradient[2]) == pytest.approx(float((above - below) / (2 * h)), rel=1e-5)


def test_a_float32_grid_is_lifted() -> None:
    state = core.integrate(Spy(), core.build_solver("euler"), start(torch.float32), grid().float())
    assert state.t.dtype == F64
    assert state.x.dtype == torch.float32


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([1.0, 2.0], "expected finite, strictly descending times, got \\[1.0, 2.0\\]"),
        ([2.0, 1.0, 1.0], "expected finite, strictly descending times"),
        ([float("inf"), 1.0], "expected finite, strictly descending times"),
        ([2.0, float("nan")], "expected finite, strictly descending times"),
        ([2.0], "expected a grid of at least two times, got shape \\(1,\\); use core.build_grid"),
        ([[2.0, 1.0]], "expected a grid of at least two times, got shape \\(1, 2\\)"),
    ],
)
def test_impossible_grids_are_refused_before_any_evaluation(nodes: list, message: str) -> None:
    spy = Spy()
    with pytest.raises(ValueError, match=message):
        core.trajectory(spy, core.build_solver("euler"), start(), torch.tensor(nodes))
    assert not spy.calls


@pytest.mark.parametrize("x", [torch.zeros(3), torch.zeros(3, 2, dtype=torch.int64)])
def test_impossible_states_are_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match="expected x_T as floats \\(batch, \\*space\\), got"):
        core.integrate(Spy(), core.build_solver("euler"), x, grid())


def test_a_velocity_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a velocity of shape \\(3, 2, 5\\), got \\(3, 1, 5\\)"):
        core.integrate(lambda x, t: x[:, :1], core.build_solver("euler"), start(), grid())


def test_an_analytic_start_needs_a_field_that_offers_one() -> None:
    with pytest.raises(ValueError, match="expected a field with analytic_velocity for afs=True, got function"):
        core.integrate(lambda x, t: x, core.build_solver("euler"), start(), grid(), afs=True)


@dataclass(frozen=True)
class ForFourSteps:
    """A solver that wants to see the grid, and says what it saw."""

    seen: list[Tensor]
    order: int = 1
    memory: int = 1

    def plan(self, grid: Tensor) -> core.Solver:
        self.seen.append(grid)
        if len(grid) != 5:
            raise ValueError(f"expected 4 steps, got {len(grid) - 1}")
        return core.Euler()

    def step(self, field: core.VelocityField, state: core.State, t_next: Tensor) -> core.State:
        raise AssertionError("the planned solver takes the steps")


def test_a_solver_that_needs_the_grid_is_shown_it_once() -> None:
    times, solver = torch.linspace(3.0, 1.0, 5), ForFourSteps([])
    planned = core.integrate(Spy(), solver, start(), times)
    assert torch.equal(planned.x, core.integrate(Spy(), core.Euler(), start(), times).x)
    assert len(solver.seen) == 1
    assert solver.seen[0].dtype == F64
    corrected = core.Corrected(solver, lambda state, proposal: torch.zeros_like(proposal.x))
    assert torch.equal(core.integrate(Spy(), corrected, start(), times).x, planned.x)
    with pytest.raises(ValueError, match="expected 4 steps, got 3"):
        core.integrate(Spy(), solver, start(), times[1:])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_step_at_which_a_network_breaks_is_named(bad: float) -> None:
    def breaks(x: Tensor, t: Tensor) -> Tensor:
        return x if t > 2 else x * bad

    times = torch.tensor([4.0, 3.0, 2.0, 1.0])
    with pytest.raises(FloatingPointError, match=r"NaN or infinity after step 3 of 3, from t = 2;"):
        core.integrate(breaks, core.Euler(), start(), times)
    with pytest.raises(FloatingPointError, match="infinity in x_T"):
        core.integrate(Spy(), core.Euler(), start() * bad, times)


def test_a_sum_that_overflows_is_no_broken_network() -> None:
    x = torch.full((3, 2), 3e38)
    assert torch.isfinite(core.integrate(lambda x, t: 0 * x, core.Euler(), x, torch.tensor([2.0, 1.0])).x).all()
