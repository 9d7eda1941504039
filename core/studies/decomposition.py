"""Which part of a step's error do learned coefficients remove? The controlled ODE of DyWeight (see
`core.studies.coefficients`) looked at as in SpanLift, section 3.1 and figure 3: each step's mismatch to the exact
continuation is split into what lies in the span of the buffered slopes and what does not,

    |U - Delta*|^2 = |U - P Delta*|^2 + |Delta* - P Delta*|^2.

Three sets of coefficients of the same slopes are compared: those of the books; the best ones of each step, which are
least squares on its exact update; and those that training on the endpoint alone finds. None reaches the second term,
which is not to say that it stays the same: other coefficients lead to other states. Endpoint training need not lower
the first term either, for it may spoil one step to mend another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from core.analysis import LocalFloor, local_floors
from core.fitting import FitConfig
from core.intervals import Interval, bootstrap_mean
from core.solvers.ipndm import IPNDM
from core.solvers.multistep import remember
from core.state import Solver, VelocityField, integrate, trajectory
from core.studies.coefficients import GIVEN_STATES, CoupledDrift, FreeCoefficients, GivenStart
from core.supervision import Example
from core.training import train_solver

Coefficients = Literal["standard", "best", "learned"]


@dataclass(frozen=True)
class DecompositionStudy:
    """Sizes of the study.

    Attributes:
        problems: drawn independently, each with coefficients of its own.
        dimension: D.
        order: of Adams-Bashforth; so many slopes span a step.
        starts: initial states per problem to fit on, unit normal draws about the truth's own.
        held_out: further ones to measure on.
        iterations, learning_rate: of Adam.
        seed: of the problems and states.
    """

    problems: int = 16
    dimension: int = 50
    order: int = 3
    starts: int = 4
    held_out: int = 4
    iterations: int = 300
    learning_rate: float = 2e-2
    seed: int = 0


class DecompositionRow(NamedTuple):
    """One setting, on held-out starts, with intervals over problems.

    Attributes:
        degree, steps: of the truth, and of the grid, of which the first `GIVEN_STATES` - 1 are given.
        coefficients: of the books, the best ones of each step, or learned on the endpoint.
        endpoint: |x - exact| / |exact| at the end.
        mismatch, inside, floor: means over the steps taken, as fractions of the exact update, see `LocalFloor`.
        last_mismatch, last_inside, last_floor: of the last step alone, which endpoint training sees directly.
    """

    degree: int
    steps: int
    coefficients: Coefficients
    endpoint: Interval
    mismatch: Interval
    inside: Interval
    floor: Interval
    last_mismatch: Interval
    last_inside: Interval
    last_floor: Interval


def study_decomposition(
    study: DecompositionStudy, settings: Iterable[tuple[int, int]], directory: Path
) -> list[DecompositionRow]:
    """Three rows, standard, best and learned, for each setting; the latter two are of each problem, from its starts.

    Args:
        study: sizes.
        settings: pairs (degree K, steps S); S at least `GIVEN_STATES`.
        directory: of the runs; one that was stopped goes on when started again.

    Raises:
        ValueError: too few steps for the given states.
    """
    rows = []
    for degree, steps in settings:
        if steps < GIVEN_STATES:
            raise ValueError(f"expected at least {GIVEN_STATES} steps, got {steps}; {GIVEN_STATES - 1} are given")
        problem = _Problem(study, degree, steps)
        learned = problem.fitted(directory / f"degree{degree}-steps{steps}-seed{study.seed}")
        rows += [
            problem.row("standard", IPNDM(study.order)),
            problem.row("best", problem.best()),
            problem.row("learned", learned),
        ]
    return rows


def continued(field: CoupledDrift, x: Tensor, clock: Tensor, clock_next: Tensor) -> Tensor:
    """The exact solution (problems, starts, D) at clock_next from x at `clock`."""
    turn = torch.linalg.matrix_exp((clock - clock_next) * field.coupling)
    return field.truth(clock_next) + (x - field.truth(clock)) @ turn.mT


class _Problem:
    """The problems of a setting, with their starts."""

    def __init__(self, study: DecompositionStudy, degree: int, steps: int) -> None:
        self.study, self.degree, self.steps = study, degree, steps
        generator = torch.Generator().manual_seed(1000 * study.seed + degree)
        self.field = CoupledDrift(study.problems, study.dimension, degree, generator)
        count = study.starts + study.held_out
        off = torch.randn(study.problems, count, study.dimension, generator=generator, dtype=torch.float64)
        self.seen, self.unseen = off[:, : study.starts], off[:, study.starts :]
        self.grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)

    def states(self, off: Tensor) -> tuple[Tensor, ...]:
        """The exact states that a solver is given."""
        return tuple(self.field.exact(off, t) for t in self.grid[:GIVEN_STATES])

    def fitted(self, directory: Path) -> FreeCoefficients:
        """Coefficients fitted to the endpoints of the starts that are seen."""
        study, given = self.study, self.states(self.seen)
        example = Example(given[0], None, self.field.exact(self.seen, self.grid[-1]))
        solver = FreeCoefficients(study.order, self.steps, study.problems)

        def run(solver: Solver, field: VelocityField, example: Example, grid: Tensor) -> Tensor:
            return integrate(field, GivenStart(solver, given), example.x_T, grid).x

        train_solver(
            solver,
            self.grid,
            lambda iteration: example,
            lambda condition: self.field,
            lambda end, example: _relative(end, example.endpoint).square().mean(),
            FitConfig(study.iterations, study.learning_rate, clip=math.inf, checkpoint_every=study.iterations),
            directory,
            run=run,
            identity={"study": repr(study)},
        )
        return solver

    @torch.no_grad()
    def best(self) -> FreeCoefficients:
        """Coefficients of each step by least squares on the exact updates of the starts that are seen."""
        solver, given = FreeCoefficients(self.study.order, self.steps, self.study.problems), self.states(self.seen)
        states = trajectory(self.field, GivenStart(solver, given), given[0], self.grid)
        for state, t_next in zip(states, self.grid[1:], strict=False):
            if state.step < GIVEN_STATES - 1:
                continue
            buffer, _ = remember(self.field, state, solver.memory)
            slopes = torch.stack([evaluation.velocity for evaluation in buffer], -1).flatten(1, 2)
            target = (continued(self.field, state.x, state.t, t_next) - state.x).flatten(1)
            weights = torch.linalg.lstsq(slopes, target[..., None]).solution / (t_next - state.t)
            solver.weights[state.step] = weights.movedim(1, 0)[..., None]  # before the trajectory takes this step
        return solver

    @torch.no_grad()
    def row(self, coefficients: Coefficients, solver: Solver) -> DecompositionRow:
        given = GivenStart(solver, self.states(self.unseen))
        end = integrate(self.field, given, given.states[0], self.grid).x
        endpoint = _relative(end, self.field.exact(self.unseen, self.grid[-1])).mean(1)
        each = torch.stack([self._fractions(solver, start) for start in range(self.study.held_out)]).mean(0)
        sizes = [*each.mean(0), *each[-1]]
        return DecompositionRow(
            self.degree, self.steps, coefficients, bootstrap_mean(endpoint), *map(bootstrap_mean, sizes)
        )

    def _fractions(self, solver: Solver, start: int) -> Tensor:
        """(steps taken, 3, problems): mismatch, inside and floor of one held-out start, each problem a sample."""
        given = GivenStart(solver, self.states(self.unseen[:, start : start + 1]))

        def flow(x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
            return continued(self.field, x, t, t_next)

        rows = local_floors(self.field, given, given.states[0], self.grid, flow)[GIVEN_STATES - 1 :]
        return torch.stack(
            [torch.stack([row.mismatch, row.inside, row.floor]) for row in map(LocalFloor.relative, rows)]
        )


def _relative(end: Tensor, exact: Tensor) -> Tensor:
    """|end - exact| / |exact|, (P, starts)."""
    return (end - exact).norm(dim=-1) / exact.norm(dim=-1)
