"""Each solver converges with the order it declares, on exact flows, on even and uneven grids.

Two problems (a Gaussian in six dimensions, a mixture on the line, whose flow keeps the cumulative probability) in two
clocks. The times are such that the flow is curved at both ends: from the far noise end, where the first step is
straight, the error of an Euler start would show only on grids finer than anyone's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import core
from core.solvers.multistep import combine, remember

F64 = torch.float64
Grid = Callable[[int, float, float], Tensor]


def alternating(steps: int, t_max: float, t_min: float) -> Tensor:
    """Short and long steps in turn, ratio 1 : 2."""
    lengths = torch.tensor([1.0, 2.0] * (steps // 2), dtype=F64)
    return t_max - (t_max - t_min) * torch.cat([torch.zeros(1, dtype=F64), lengths.cumsum(0) / lengths.sum()])


GRIDS: dict[str, Grid] = {
    "even": lambda steps, t_max, t_min: core.build_grid("uniform", steps, t_max, t_min),
    "quadratic": lambda steps, t_max, t_min: core.build_grid("quadratic", steps, t_max, t_min),
    "alternating": alternating,
}
SOLVERS = [("euler", None), ("heun", None), *((n, k) for n in ("ipndm", "adams-bashforth") for k in (1, 2, 3, 4))]
CLOCKS = {"edm": (core.EDM(), None, 0.6, 0.05), "vp": (core.VP(), core.VP(), 0.3, 0.05)}


def problem(name: str, schedule: core.Schedule, t_max: float) -> tuple[core.MixtureField, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sigma = schedule(t_max).sigma
    if name == "gaussian":
        field = core.MixtureField(torch.full((1, 3, 2), 0.7, dtype=F64), [1.0], 0.6, schedule)
        return field, sigma * torch.randn(5, 3, 2, generator=generator, dtype=F64)
    means = torch.tensor([[-1.0], [0.4], [1.3]], dtype=F64)
    return (
        core.MixtureField(means, [0.3, 0.5, 0.2], [0.5, 0.35, 0.45], schedule),
        sigma * torch.randn(13, 1, generator=generator, dtype=F64),
    )


def measured(errors: list[float]) -> float:
    return math.log2(errors[0] / errors[1])


def order_of(solver: core.Solver, problem_name: str, clock: str, grid: Grid) -> float:
    schedule, _, t_max, t_min = CLOCKS[clock]
    field, x = problem(problem_name, schedule, t_max)
    errors = []
    ends = grid(2, t_max, t_min)
    exact = field.flow(x, ends[0], ends[-1])
    for steps in (64, 128):
        nodes = grid(steps, t_max, t_min)
        errors.append(float((core.integrate(field, solver, x, nodes).x - exact).square().mean().sqrt()))
    return measured(errors)


@pytest.mark.parametrize(("name", "order"), SOLVERS)
@pytest.mark.parametrize("problem_name", ["gaussian", "mixture"])
@pytest.mark.parametrize("grid", ["even", "quadratic"])
@pytest.mark.parametrize("clock", CLOCKS)
def test_measured_order_is_the_declared_one(
    name: str, order: int | None, problem_name: str, grid: str, clock: str
) -> None:
    solver = core.build_solver(name, order=order, schedule=CLOCKS[clock][1])
    assert order_of(solver, problem_name, clock, GRIDS[grid]) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize(("name", "order"), [pair for pair in SOLVERS if pair[0] != "ipndm"])
@pytest.mark.parametrize("problem_name", ["gaussian", "mixture"])
def test_exact_weights_keep_the_order_on_rough_grids(name: str, order: int | None, problem_name: str) -> None:
    solver = core.build_solver(name, order=order)
    assert order_of(solver, problem_name, "edm", alternating) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_fixed_weights_are_of_order_one_on_rough_grids(order: int) -> None:
    """As `IPNDM` says of itself."""
    assert order_of(core.IPNDM(order), "gaussian", "edm", alternating) == pytest.approx(1, abs=0.15)


def started_exactly(solver: core.Solver, field: core.MixtureField, x: Tensor, nodes: Tensor) -> Tensor:
    """The endpoint when the first evaluations are made on the exact flow, so that no start-up step is taken."""
    times = nodes.unbind()
    known = [field.flow(x, times[0], t) for t in times[: solver.memory]]
    buffer = tuple(core.evaluate(field, y, t) for y, t in zip(known[:-1], times, strict=False))[::-1]
    state = core.State(known[-1], times[solver.memory - 1], 0, buffer, 0)
    for t_next in times[solver.memory :]:
        state = solver.step(field, state, t_next)
    return state.x


@pytest.mark.parametrize(
    ("solver", "grid"),
    [(core.AdamsBashforth(k), grid) for k in (2, 3, 4) for grid in GRIDS]
    + [(core.AdamsBashforth(3, core.DataChart(core.EDM())), "alternating")]
    + [(core.IPNDM(k), "even") for k in (2, 3, 4)],
    ids=str,
)
@pytest.mark.parametrize("problem_name", ["gaussian", "mixture"])
def test_started_exactly_the_order_is_the_nominal_one(
    solver: core.AdamsBashforth | core.IPNDM, grid: str, problem_name: str
) -> None:
    field, x = problem(problem_name, core.EDM(), 0.6)
    errors = []
    ends = GRIDS[grid](2, 0.6, 0.05)
    exact = field.flow(x, ends[0], ends[-1])
    for steps in (64, 128):
        nodes = GRIDS[grid](steps, 0.6, 0.05)
        error = started_exactly(solver, field, x, nodes) - exact
        errors.append(float(error.square().mean().sqrt()))
    assert measured(errors) == pytest.approx(solver.memory, abs=0.15)


def test_a_wrong_history_shows_in_the_order() -> None:
    """The tests above would catch a method that takes its own step for the previous one."""

    class Careless(core.AdamsBashforth):
        def step(self, field: core.VelocityField, state: core.State, t_next: Tensor) -> core.State:
            buffer, calls = remember(field, state, self.memory)
            h = t_next - state.t
            weights = (1.5, -0.5) if len(buffer) > 1 and float(h) else (1.0,)
            return combine(self.chart, state, t_next, buffer, weights, calls)

    assert abs(order_of(Careless(2), "gaussian", "edm", alternating) - 2) > 0.5
