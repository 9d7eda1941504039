"""The controlled ODE of DyWeight (Zhao et al. 2026, arXiv 2603.11607, section 3.2 and appendix D.1): a coupled drift
whose solutions are known, and multistep methods on it that all start from the same exact states.

The truth is a polynomial y(t) of degree K in D dimensions on [0, 1], and the drift is coupled,

    f(t, y) = y_true'(t) + A (y - y_true(t)),

so that y_true is a solution, and y_true(t) + exp(A t) d the one that starts off by d.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from core.charts import TimeChart
from core.fitting import FitConfig
from core.solvers.ipndm import WEIGHTS
from core.solvers.multistep import combine, remember
from core.state import Solver, State, VelocityField, integrate, observe, push
from core.supervision import Example
from core.training import train_solver

GIVEN_STATES = 4
"""Exact states that all methods start from, so that their histories are the same."""


class CoupledDrift:
    """The drift of several problems at once, for states (problems, starts, D), in the clock 1 - t, which runs down.

    Args:
        problems, dimension, degree: P, D and K.
        generator: of the coefficients of the truth, N(0, 4), and of A, which is N(0, 0.1 / sqrt(D)) - I / 2; the second
            number is read as a variance in both.
    """

    def __init__(self, problems: int, dimension: int, degree: int, generator: torch.Generator) -> None:
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.coefficients = 2 * normal(problems, dimension, degree + 1)
        spread = math.sqrt(0.1 / math.sqrt(dimension))
        self.coupling = spread * normal(problems, dimension, dimension) - torch.eye(dimension, dtype=torch.float64) / 2
        self.powers = torch.arange(degree + 1, dtype=torch.float64)
        self._kept: dict[float, tuple[Tensor, Tensor]] = {}

    def truth(self, clock: Tensor) -> Tensor:
        """y_true (P, 1, D)."""
        return self._known(clock)[0]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        truth, rate = self._known(t)
        return -(rate + (x - truth) @ self.coupling.mT)

    def _known(self, clock: Tensor) -> tuple[Tensor, Tensor]:
        """y_true and y_true' (P, 1, D); kept where there is no gradient: runs on one grid ask for the same times."""
        if clock.requires_grad:
            return self._at(clock)
        time = float(clock)
        if time not in self._kept:
            self._kept[time] = self._at(clock)
        return self._kept[time]

    def _at(self, clock: Tensor) -> tuple[Tensor, Tensor]:
        powers = (1 - clock) ** self.powers
        rate = self.coefficients[..., 1:] @ (self.powers[1:] * powers[:-1])
        return (self.coefficients @ powers)[:, None], rate[:, None]

    def exact(self, off: Tensor, clock: Tensor) -> Tensor:
        """The solution (P, starts, D) that starts off the truth by `off`."""
        return self.truth(clock) + off @ torch.linalg.matrix_exp((1 - clock) * self.coupling).mT

    def flow(self, x: Tensor, clock: Tensor, clock_next: Tensor) -> Tensor:
        """The exact solution (P, starts, D) at clock_next from x at `clock`."""
        turn = torch.linalg.matrix_exp((clock - clock_next) * self.coupling)
        return self.truth(clock_next) + (x - self.truth(clock)) @ turn.mT


class FreeCoefficients(nn.Module):
    """Adams-Bashforth whose coefficients are free, of each step and problem: (steps, order, problems, 1, 1)."""

    order: int | None = None

    def __init__(self, order: int, steps: int, problems: int) -> None:
        super().__init__()
        start = torch.tensor(WEIGHTS[order - 1], dtype=torch.float64)
        self.weights = nn.Parameter(start[:, None, None, None].expand(steps, order, problems, 1, 1).clone())

    @property
    def memory(self) -> int:
        return self.weights.shape[1]

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        buffer, calls = remember(field, state, self.memory)
        return combine(TimeChart(), state, t_next, buffer, self.weights[state.step], calls)


@dataclass(frozen=True, eq=False)
class GivenStart:
    """`solver` after steps that are known: state i of the run is `states[i]` as long as there is one."""

    solver: Solver
    states: tuple[Tensor, ...]
    order: int | None = None

    @property
    def memory(self) -> int:
        return self.solver.memory

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        if state.step + 1 >= len(self.states):
            return self.solver.step(field, state, t_next)
        evaluation, calls = observe(field, state)
        buffer = push(evaluation, state.buffer, self.memory)
        return State(self.states[state.step + 1], t_next, state.step + 1, buffer, state.nfe + calls)


class Sizes(Protocol):
    """What a study says of its problems, see `CoefficientStudy`."""

    @property
    def problems(self) -> int: ...
    @property
    def dimension(self) -> int: ...
    @property
    def starts(self) -> int: ...
    @property
    def held_out(self) -> int: ...
    @property
    def seed(self) -> int: ...


def draw_problems(study: Sizes, degree: int) -> tuple[CoupledDrift, Tensor, Tensor]:
    """The problems of a degree, with what starts to fit and to measure on are off the truth by (P, starts, D)."""
    generator = torch.Generator().manual_seed(1000 * study.seed + degree)
    field = CoupledDrift(study.problems, study.dimension, degree, generator)
    shape = study.problems, study.starts + study.held_out, study.dimension
    off = torch.randn(shape, generator=generator, dtype=torch.float64)
    return field, off[:, : study.starts], off[:, study.starts :]


def even_grid(steps: int) -> Tensor:
    """(steps + 1,) from 1 to 0.

    Raises:
        ValueError: too few steps for the given states.
    """
    if steps < GIVEN_STATES:
        raise ValueError(f"expected at least {GIVEN_STATES} steps, got {steps}; {GIVEN_STATES - 1} are given")
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def given_states(field: CoupledDrift, off: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
    """The exact states (P, starts, D) that a solver is given."""
    return tuple(field.exact(off, t) for t in grid[:GIVEN_STATES])


def fit_coefficients(
    field: CoupledDrift,
    order: int,
    off: Tensor,
    grid: Tensor,
    sizes: FitConfig,
    directory: Path,
    identity: Mapping[str, object],
) -> FreeCoefficients:
    """Coefficients of every step and problem, fitted to exact endpoints.

    Args:
        field, order, grid: what they are for.
        off: (P, starts, D), the starts to fit on.
        sizes: iterations and learning rate.
        directory, identity: of the run, see `train_solver`.
    """
    states = given_states(field, off, grid)
    example = Example(states[0], None, field.exact(off, grid[-1]))
    solver = FreeCoefficients(order, len(grid) - 1, len(off))

    def run(solver: Solver, field: VelocityField, example: Example, grid: Tensor) -> Tensor:
        return integrate(field, GivenStart(solver, states), example.x_T, grid).x

    train_solver(
        solver,
        grid,
        lambda iteration: example,
        lambda condition: field,
        lambda end, example: relative_errors(end, example.endpoint).square().mean(),
        replace(sizes, clip=math.inf, checkpoint_every=sizes.iterations),
        directory,
        run=run,
        identity=identity,
    )
    return solver


@torch.no_grad()
def endpoint_errors(field: CoupledDrift, solver: Solver, off: Tensor, grid: Tensor) -> Tensor:
    """(P,) relative L2 errors of endpoints, means over starts."""
    states = given_states(field, off, grid)
    end = integrate(field, GivenStart(solver, states), states[0], grid).x
    return relative_errors(end, field.exact(off, grid[-1])).mean(1)


def relative_errors(end: Tensor, exact: Tensor) -> Tensor:
    """|end - exact| / |exact|, (P, starts)."""
    return (end - exact).norm(dim=-1) / exact.norm(dim=-1)
