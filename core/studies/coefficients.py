"""Are the coefficients of Adams-Bashforth the best ones when steps are few? The numerical study of DyWeight (Zhao et
al. 2026, arXiv 2603.11607, section 3.2 and appendix D.1).

The truth is a polynomial y(t) of degree K in D dimensions on [0, 1], and the drift is coupled,

    f(t, y) = y_true'(t) + A (y - y_true(t)),

so that y_true is a solution, and y_true(t) + exp(A t) d the one that starts off by d. The paper fits and measures on
y_true alone; here coefficients are fitted on some starts and also measured on others, all with exact solutions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.charts import TimeChart
from core.fitting import FitConfig
from core.intervals import Interval, bootstrap_mean
from core.solvers.ipndm import IPNDM, WEIGHTS
from core.solvers.multistep import combine, remember
from core.state import Solver, State, VelocityField, integrate, observe, push
from core.supervision import Example
from core.training import RunToEnd, train_solver

TEACHER_STEPS = 100
GIVEN_STATES = 4
"""Exact states that all methods start from, so that their histories are the same."""


@dataclass(frozen=True)
class CoefficientStudy:
    """Sizes of the study.

    Attributes:
        problems: drawn independently, each with coefficients of its own.
        dimension: D.
        starts: initial states per problem to fit on: the truth's own, and others off by unit normal draws.
        held_out: further initial states to measure on.
        iterations, learning_rate: of Adam.
        seed: of the problems and states.
    """

    problems: int = 16
    dimension: int = 50
    starts: int = 4
    held_out: int = 8
    iterations: int = 400
    learning_rate: float = 2e-2
    seed: int = 0


class CoefficientRow(NamedTuple):
    """Relative L2 errors of the endpoint for one setting, with intervals over problems.

    Attributes:
        degree: K of the truth.
        steps: S; the first `GIVEN_STATES` - 1 of them are given.
        order: of Adams-Bashforth.
        standard, optimised: on held-out starts.
        gain: log10(standard / optimised), paired; above 0 where learned coefficients are better.
        truth_standard, truth_optimised: on the truth's own trajectory, which was fitted on, as in the paper.
    """

    degree: int
    steps: int
    order: int
    standard: Interval
    optimised: Interval
    gain: Interval
    truth_standard: Interval
    truth_optimised: Interval


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


class _Fitted(nn.Module):
    """A `GivenStart` of a solver with parameters, for `train_solver`."""

    order: int | None = None

    def __init__(self, solver: FreeCoefficients, states: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.solver = solver
        self.given = GivenStart(solver, states)
        self.memory = solver.memory

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        return self.given.step(field, state, t_next)


def teacher_errors(study: CoefficientStudy, degrees: Iterable[int], steps: int = TEACHER_STEPS) -> list[Interval]:
    """Relative L2 errors on held-out starts of a teacher, Adams-Bashforth of order 4 with many steps, by degree."""
    found = []
    for degree in degrees:
        field, _, unseen = _problems(study, degree)
        found.append(bootstrap_mean(_errors(field, IPNDM(4), unseen, _grid(steps))))
    return found


def study_coefficients(
    study: CoefficientStudy, settings: Iterable[tuple[int, int]], directory: Path, orders: Iterable[int] = (1, 2, 3, 4)
) -> list[CoefficientRow]:
    """Adams-Bashforth with the coefficients of the books and with fitted ones.

    Args:
        study: sizes.
        settings: pairs (degree K, steps S); S at least `GIVEN_STATES`.
        directory: of the runs; one that was stopped goes on when started again.
        orders: of Adams-Bashforth, 1 to 4.

    Raises:
        ValueError: too few steps for the given states.
    """
    rows = []
    for degree, steps in settings:
        if steps < GIVEN_STATES:
            raise ValueError(f"expected at least {GIVEN_STATES} steps, got {steps}; {GIVEN_STATES - 1} are given")
        rows += [_row(study, degree, steps, order, directory) for order in orders]
    return rows


def _row(study: CoefficientStudy, degree: int, steps: int, order: int, directory: Path) -> CoefficientRow:
    field, seen, unseen = _problems(study, degree)
    grid = _grid(steps)
    fitted = FreeCoefficients(order, steps, study.problems)
    example = Example(field.exact(seen, grid[0]), None, field.exact(seen, grid[-1]))
    train_solver(
        _Fitted(fitted, _given(field, seen, grid)),
        grid,
        lambda iteration: example,
        lambda condition: field,
        lambda end, example: _relative(end, example.endpoint).square().mean(),
        FitConfig(study.iterations, study.learning_rate, clip=math.inf, checkpoint_every=study.iterations),
        directory / f"degree{degree}-steps{steps}-order{order}-seed{study.seed}",
        run=RunToEnd(rematerialise=False),  # states here are small: to keep them is quicker
        identity={"study": repr(study)},
    )
    standard, optimised = (_errors(field, solver, unseen, grid) for solver in (IPNDM(order), fitted))
    truth = [_errors(field, solver, seen[:, :1], grid) for solver in (IPNDM(order), fitted)]
    gain = (standard / optimised).log10()
    return CoefficientRow(
        degree, steps, order, *(bootstrap_mean(value) for value in (standard, optimised, gain, *truth))
    )


def _problems(study: CoefficientStudy, degree: int) -> tuple[CoupledDrift, Tensor, Tensor]:
    """The problems of a degree, with what starts to fit and to measure on are off the truth by (P, starts, D)."""
    generator = torch.Generator().manual_seed(1000 * study.seed + degree)
    field = CoupledDrift(study.problems, study.dimension, degree, generator)
    off = torch.randn(
        study.problems, study.starts + study.held_out, study.dimension, generator=generator, dtype=torch.float64
    )
    off[:, 0] = 0
    return field, off[:, : study.starts], off[:, study.starts :]


def _grid(steps: int) -> Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


@torch.no_grad()
def _errors(field: CoupledDrift, solver: Solver, off: Tensor, grid: Tensor) -> Tensor:
    """(P,) means over starts."""
    given = GivenStart(solver, _given(field, off, grid))
    end = integrate(field, given, field.exact(off, grid[0]), grid).x
    return _relative(end, field.exact(off, grid[-1])).mean(1)


def _given(field: CoupledDrift, off: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
    return tuple(field.exact(off, t) for t in grid[:GIVEN_STATES])


def _relative(end: Tensor, exact: Tensor) -> Tensor:
    """|end - exact| / |exact|, (P, starts)."""
    return (end - exact).norm(dim=-1) / exact.norm(dim=-1)
