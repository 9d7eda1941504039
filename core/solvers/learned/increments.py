"""What is learned on top of a base solver's own step, shared by the methods that learn coefficients.

A coefficient is the base solver's plus a learned addition, so an untrained student is its base to the last bit. With
s the coordinate of a chart, y the state in it and slopes dy/ds (velocity, noise or data prediction), the base moves
from t to t' along some combination of slopes; the student adds (s' - s) sum_j w_j slope_j to that, in x

    x' = base(x) + gain(t, t') sum_j w_j slope_j,        gain = sigma' - sigma alpha'/alpha     (noise)
                                                                alpha' - alpha sigma'/sigma     (data)

which are the factors -sigma'(e^h - 1) and -alpha'(e^-h - 1) of S4S (arXiv 2502.17423, eq. 5 and appendix C.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from core.charts import Chart, DataChart, NoiseChart, TimeChart
from core.schedules import EDM, Schedule
from core.state import Evaluation, Solver, State, VelocityField, evaluate, nfe_of, observe, plan, push, trajectory

if TYPE_CHECKING:
    from core.solvers.options import SolverOptions

Place = Callable[[int, Tensor, Tensor, Sequence[Evaluation]], tuple[Tensor, Tensor]]
"""(number of the evaluation in its step, x, t, the step's evaluations before it) -> (x, t) to ask the network at."""


@dataclass(frozen=True, eq=False)
class StudentConfig:
    """What a student of a handcrafted solver is built from.

    Attributes:
        base: handcrafted solver that the student is before training.
        grid: (steps + 1,) descending float64 times it is for.
        history: evaluations whose weights are learned, the newest included; None where the method sets it.
        prediction: whether noise or data predictions are weighed; None for what the base weighs.
        schedule: of the model, for a `prediction`; None for EDM.
    """

    base: Solver
    grid: Tensor
    history: int | None = None
    prediction: Literal["noise", "data"] | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", self.grid.detach().double().cpu())
        if isinstance(self.base, nn.Module) or self.base.order is None:
            raise ValueError(
                f"expected a handcrafted deterministic solver as base, got {type(self.base).__name__}; "
                "use e.g. core.build_solver('ipndm', order=3)"
            )
        if self.prediction not in (None, "noise", "data"):
            raise ValueError(f"expected prediction 'noise' or 'data', got {self.prediction!r}; or leave it out")
        if self.history is not None and self.history not in range(1, self.steps + 1):
            raise ValueError(
                f"expected 1 to {self.steps} evaluations to weigh on a grid of {self.steps} steps, got {self.history}; "
                "lower the order"
            )

    @property
    def steps(self) -> int:
        return len(self.grid) - 1

    @property
    def chart(self) -> Chart:
        """Coordinates in which slopes are weighed."""
        if self.prediction == "data":
            return DataChart(EDM() if self.schedule is None else self.schedule)
        if self.prediction == "noise":
            return TimeChart() if self.schedule is None else NoiseChart(self.schedule)
        return getattr(self.base, "chart", TimeChart())

    def query_times(self) -> list[list[Tensor]]:
        """Times at which the base asks the network, step by step; found by running it on nothing."""
        return query_times(self.base, self.grid)


class Band(nn.Module):
    """Learned additions to a banded table: row i has one for each of the newest min(i + 1, history) evaluations.

    Args:
        rows: N.
        history: k <= N. There are k (2 N + 1 - k) / 2 numbers, all zero at first.
    """

    def __init__(self, rows: int, history: int) -> None:
        super().__init__()
        self.lengths = [min(row + 1, history) for row in range(rows)]
        self.values = nn.Parameter(torch.zeros(sum(self.lengths), dtype=torch.float64))

    def __getitem__(self, row: int) -> Tensor:
        """(min(row + 1, history),), newest evaluation first."""
        first = sum(self.lengths[:row])
        return self.values[first : first + self.lengths[row]]


def gain(chart: Chart, t: Tensor, t_next: Tensor) -> Tensor:
    """What a unit slope adds to x on the way from t to t_next; ()."""
    return chart.move(torch.zeros_like(t), t, t_next, torch.ones_like(t))


def keep(chart: Chart, t: Tensor, t_next: Tensor) -> Tensor:
    """What becomes of a unit of x on the way from t to t_next where slopes stay as they are; ()."""
    return chart.move(torch.ones_like(t), t, t_next, torch.zeros_like(t))


def nudge(x: Tensor, unit: Tensor, weights: Iterable[Tensor], slopes: Iterable[Tensor]) -> Tensor:
    """x + unit * sum_j weights[j] * slopes[j], over as many as there are of both; x itself where all weights are 0."""
    for weight, slope in zip(weights, slopes, strict=False):
        x = x + (unit * weight) * slope
    return x


def seen_from(chart: Chart, evaluation: Evaluation, x: Tensor, t: Tensor) -> Tensor:
    """The velocity (B, *space) that has at (x, t) the slope that `evaluation` has where it was made.

    A slope is A(t) velocity + B(t) x; where x and t are those of the evaluation its velocity comes back to the bit.
    """
    if isinstance(chart, TimeChart):
        return evaluation.velocity
    (of_velocity, of_x), (there_velocity, there_x) = _slope_of(chart, t), _slope_of(chart, evaluation.t)
    moved = (there_x * evaluation.x - of_x * x) / of_velocity
    return (there_velocity / of_velocity) * evaluation.velocity + moved


def _slope_of(chart: Chart, t: Tensor) -> tuple[Tensor, Tensor]:
    """(A, B) of slope = A velocity + B x at time t."""
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    return chart.slope(Evaluation(t, zero, one)), chart.slope(Evaluation(t, one, zero))


class Moved:
    """A field for one step of a base solver: asked at (x, t) it asks the network where `place` says.

    The base solver is given the velocity that has the slope found there, so that its own arithmetic goes on as if the
    network had been asked where it wanted.

    Attributes:
        seen: evaluations of this step as the base solver has them, oldest first.
    """

    def __init__(self, field: VelocityField, chart: Chart, place: Place) -> None:
        self.field = field
        self.chart = chart
        self.place = place
        self.seen: list[Evaluation] = []

    @property
    def evaluations_per_call(self) -> int:
        return nfe_of(self.field)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        evaluation = evaluate(self.field, *self.place(len(self.seen), x, t, self.seen))
        velocity = seen_from(self.chart, evaluation, x, t)
        self.seen.append(Evaluation(t, x, velocity))
        return velocity


def staged(
    base: Solver, chart: Chart, field: VelocityField, state: State, t_next: Tensor, place: Place
) -> tuple[State, list[Evaluation]]:
    """The base's step with its evaluations moved to where `place` says, and those evaluations, the oldest first.

    The first, number 0, is that at the state; it is not moved where the buffer starts with it, after an analytic start.
    """
    moved = Moved(field, chart, place)
    evaluation, calls = observe(moved, state)
    moved.seen = [evaluation]
    buffer = push(evaluation, state.buffer[: base.memory], base.memory + 1)  # what a base adds to what it kept
    after = base.step(moved, replace(state, buffer=buffer, nfe=state.nfe + calls), t_next)
    return after, moved.seen


def query_times(base: Solver, grid: Tensor) -> list[list[Tensor]]:
    """Times at which `base` asks a field on `grid`, one list a step."""
    asked: list[Tensor] = []

    def field(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t)
        return torch.zeros_like(x)

    counts = [len(asked) for _ in trajectory(field, base, torch.zeros(1, 1, dtype=torch.float64), grid)]
    return [asked[first:last] for first, last in pairwise(counts)]


def require_one_evaluation(kind: str, config: StudentConfig) -> None:
    """Raise ValueError unless the base is a multistep method: one evaluation a step, at the step's start."""
    for start, times in zip(config.grid, config.query_times(), strict=False):
        if len(times) != 1 or times[0] != start:
            raise ValueError(
                f"expected a base of one evaluation a step, at its start, for {kind!r}, got "
                f"{type(config.base).__name__}; use a multistep method, e.g. core.build_solver('ipndm', order=3)"
            )


def builder(
    student: Callable[..., Solver], config: type[StudentConfig] = StudentConfig
) -> Callable[[SolverOptions], Solver]:
    """What makes a student from the options of `build_solver`, whose `order` or `history` is how many it weighs."""

    def build(options: SolverOptions) -> Solver:
        assert options.base is not None
        assert options.grid is not None
        history = options.history if options.order is None else options.order
        return student(config(options.base, options.grid, history, options.prediction, options.schedule))

    return build


def planned(config: StudentConfig) -> Solver:
    """The base as it is for the configuration's grid."""
    return plan(config.base, config.grid)
