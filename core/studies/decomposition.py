"""Which part of a step's error do learned coefficients remove? The controlled ODE of DyWeight (see
`core.studies.coupled_drift`) looked at as in SpanLift, section 3.1 and figure 3: each step's mismatch to the exact
continuation is split into what lies in the span of the buffered slopes and what does not,

    |U - Delta*|^2 = |U - P Delta*|^2 + |Delta* - P Delta*|^2.

Three sets of coefficients of the same slopes are compared: those of the books; the best ones of each step, which are
least squares on its exact update; and those that training on the endpoint alone finds. None reaches the second term,
which is not to say that it stays the same: other coefficients lead to other states. Endpoint training need not lower
the first term either, for it may spoil one step to mend another; the longer it goes on, the more it does.
"""

from __future__ import annotations

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
from core.state import Solver, trajectory
from core.studies.coupled_drift import (
    GIVEN_STATES,
    FreeCoefficients,
    GivenStart,
    draw_problems,
    endpoint_errors,
    even_grid,
    fit_coefficients,
    given_states,
)

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
        last_mismatch, last_inside, last_floor: of the last step alone, which endpoint training sees directly; off the
            path the exact update does not lead to the exact endpoint.
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
        problem = _Problem(study, degree, steps)
        rows += [
            problem.row("standard", IPNDM(study.order)),
            problem.row("best", problem.best()),
            problem.row("learned", problem.fitted(directory)),
        ]
    return rows


class _Problem:
    """The problems of a setting, with their starts."""

    def __init__(self, study: DecompositionStudy, degree: int, steps: int) -> None:
        self.study, self.degree, self.steps = study, degree, steps
        self.field, self.seen, self.unseen = draw_problems(study, degree)
        self.grid = even_grid(steps)

    def fitted(self, directory: Path) -> FreeCoefficients:
        """Coefficients fitted to the endpoints of the starts that are seen."""
        study = self.study
        sizes = FitConfig(study.iterations, study.learning_rate)
        run = directory / f"degree{self.degree}-steps{self.steps}-seed{study.seed}"
        return fit_coefficients(self.field, study.order, self.seen, self.grid, sizes, run, {"study": repr(study)})

    @torch.no_grad()
    def best(self) -> FreeCoefficients:
        """Coefficients of each step by least squares on the exact updates of the starts that are seen."""
        solver = FreeCoefficients(self.study.order, self.steps, self.study.problems)
        given = given_states(self.field, self.seen, self.grid)
        states = trajectory(self.field, GivenStart(solver, given), given[0], self.grid)
        for state, t_next in zip(states, self.grid[1:], strict=False):
            if state.step < GIVEN_STATES - 1:
                continue
            buffer, _ = remember(self.field, state, solver.memory)
            slopes = torch.stack([evaluation.velocity for evaluation in buffer], -1).flatten(1, 2)
            target = (self.field.flow(state.x, state.t, t_next) - state.x).flatten(1)
            weights = torch.linalg.lstsq(slopes, target[..., None]).solution / (t_next - state.t)
            solver.weights[state.step] = weights.movedim(1, 0)[..., None]  # before the trajectory takes this step
        return solver

    @torch.no_grad()
    def row(self, coefficients: Coefficients, solver: Solver) -> DecompositionRow:
        endpoint = endpoint_errors(self.field, solver, self.unseen, self.grid)
        each = torch.stack([self._fractions(solver, start) for start in range(self.study.held_out)]).mean(0)
        sizes = [*each.mean(0), *each[-1]]
        return DecompositionRow(
            self.degree, self.steps, coefficients, bootstrap_mean(endpoint), *map(bootstrap_mean, sizes)
        )

    def _fractions(self, solver: Solver, start: int) -> Tensor:
        """(steps taken, 3, problems): mismatch, inside and floor of one held-out start, each problem a sample."""
        given = GivenStart(solver, given_states(self.field, self.unseen[:, start : start + 1], self.grid))
        rows = local_floors(self.field, given, given.states[0], self.grid, self.field.flow)[GIVEN_STATES - 1 :]
        return torch.stack(
            [torch.stack([row.mismatch, row.inside, row.floor]) for row in map(LocalFloor.relative, rows)]
        )
