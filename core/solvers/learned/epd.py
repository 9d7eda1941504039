"""EPD: several evaluations inside each step that do not wait for each other (Zhu, Zhou, Wang, Chen & Chen 2025,
arXiv 2507.14797).

    t_p = t'^(r_p) t^(1-r_p)      y_p = x moved to t_p      e_p = (y_p - D(y_p; c_p t_p)) / t_p      p = 1 .. n  (EDM)
    x' = x moved to t' along sum_p w_p s_p e_p

EPD-Solver moves x to t_p along the slope at t, EPD-Plugin as a multistep base solver does; its history are the
evaluations at the starts of the steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from core.charts import Chart
from core.schedules import Schedule
from core.solvers.adams_bashforth import AdamsBashforth
from core.solvers.euler import Euler
from core.solvers.ipndm import IPNDM
from core.solvers.learned.base import Learned
from core.solvers.learned.intermediate import (
    TimeScaled,
    around,
    chart_of_base,
    check_base,
    check_place,
    check_rows,
    observed,
    place_around,
    start_schedule,
    time_between,
)
from core.state import Evaluation, Solver, State, VelocityField, evaluate, nfe_of

if TYPE_CHECKING:
    from core.solvers.options import SolverOptions

BASES = (Euler, IPNDM, AdamsBashforth)
"""Solvers that EPD-Plugin works on."""
DEFAULT_POINTS = 2


@dataclass(frozen=True)
class EPD:
    """EPD with known numbers: tables (steps, points), or (points,) for steps of any number.

    A step makes 1 + points evaluations, which `nfe` counts, in two rounds, which `rounds` counts: those of a round can
    run at the same time, and the literature counts rounds. A step to t = 0, which has no geometric middle, is one step
    of the base.

    Attributes:
        weights: w; they need not sum to 1.
        r: places, in (0, 1).
        scale_dir: s; None is ones.
        scale_time: c; None is ones.
        base: of EPD-Plugin, one of `BASES`; None, as Euler, is EPD-Solver.
        schedule: of the model; without it EDM, or straight flows in their own time. A base brings its own.

    Raises:
        ValueError: tables of different shapes, r outside (0, 1), another base, a schedule beside a base.
    """

    weights: Tensor
    r: Tensor
    scale_dir: Tensor | None = None
    scale_time: Tensor | None = None
    base: Solver | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        if self.weights.ndim not in (1, 2) or not self.weights.numel():
            raise ValueError(
                f"expected weights (steps, points) or (points,), got {tuple(self.weights.shape)}; give one row a step"
            )
        tables = {"r": self.r, "scale_dir": self.scale_dir, "scale_time": self.scale_time}
        for name, table in tables.items():
            if table is not None and table.shape != self.weights.shape:
                raise ValueError(
                    f"expected {name} of the shape of weights, {tuple(self.weights.shape)}, got {tuple(table.shape)}; "
                    "give one number a point"
                )
        check_place(self.r)
        check_base(self.base, BASES, self.schedule)

    @property
    def order(self) -> int | None:
        return None

    @property
    def points(self) -> int:
        return self.weights.shape[-1]

    @property
    def chart(self) -> Chart:
        return chart_of_base(self.base, self.schedule)

    @property
    def memory(self) -> int:
        return 1 if self.base is None else self.base.memory

    def rounds(self, grid: Tensor, afs: bool = False) -> int:
        """Evaluations that wait for each other on a grid (steps + 1,), an analytic first step taken or not."""
        return _rounds(grid, afs)

    def plan(self, grid: Tensor) -> EPD:
        """This solver; raises ValueError unless its tables have one row a step."""
        if self.weights.ndim == 2 and len(self.weights) != len(grid) - 1:
            raise ValueError(
                f"expected a grid of {len(self.weights)} steps, one a row of the tables, got {len(grid) - 1}; "
                "sample with the number of steps that they are for"
            )
        return self

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        start = observed(field, state, self.memory)
        base = Euler(self.chart) if self.base is None else self.base
        if t_next == 0:
            return base.step(field, start, t_next)
        found = [self._point(field, base, start, t_next, point) for point in range(self.points)]
        weights = self._row(self.weights, state.step)
        slopes = [self.chart.slope(evaluation) for evaluation in found]
        if self.scale_dir is not None:
            scales = self._row(self.scale_dir, state.step)
            slopes = [scale * slope for scale, slope in zip(scales, slopes, strict=True)]
        # summed so that equal slopes give, with weights of sum 1, that slope to the last bit
        slope = weights.sum() * slopes[0]
        for weight, other in zip(weights[1:], slopes[1:], strict=True):
            slope = slope + weight * (other - slopes[0])
        x = self.chart.move(start.x, start.t, t_next, slope)
        return State(x, t_next, state.step + 1, start.buffer, start.nfe + self.points * nfe_of(field))

    def _row(self, table: Tensor, step: int) -> Tensor:
        return table if table.ndim == 1 else table[step]

    def _point(self, field: VelocityField, base: Solver, start: State, t_next: Tensor, point: int) -> Evaluation:
        clock: Schedule | None = getattr(self.chart, "schedule", None)
        t = time_between(clock, start.t, t_next, self._row(self.r, start.step)[point])
        scale = 1.0 if self.scale_time is None else self._row(self.scale_time, start.step)[point]
        return evaluate(TimeScaled(field, scale, clock), base.step(field, start, t).x, t)


def _rounds(grid: Tensor, afs: bool) -> int:
    steps = len(grid) - 1
    return 2 * steps - int(afs) - int(grid[-1] == 0)


@dataclass(frozen=True)
class EPDConfig:
    """What a `LearnedEPD` is built from.

    Attributes:
        grid: (steps + 1,) times it is for.
        points: parallel evaluations a step.
        base, schedule: see `EPD`.
        weights: positive numbers to start from, (steps, points) or (points,), brought to sum 1; equal where not given.
        r, scale_dir, scale_time: numbers to start from, one for all or of those shapes.
        bound_dir, bound_time: how far, relatively, scale_dir and scale_time may go from there.

    Raises:
        ValueError: shapes that do not belong together, r outside (0, 1), weights that are not positive.
    """

    grid: Tensor
    points: int = DEFAULT_POINTS
    base: Solver | None = None
    schedule: Schedule | None = None
    weights: Tensor | None = None
    r: float | Tensor = 0.5
    scale_dir: float | Tensor = 1.0
    scale_time: float | Tensor = 1.0
    bound_dir: float = 0.05
    bound_time: float = 0.05

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"expected points >= 1, got {self.points}; 2 are usual")
        starts = {name: getattr(self, name) for name in ("weights", "r", "scale_dir", "scale_time")}
        for name, start in starts.items():
            row = isinstance(start, Tensor) and tuple(start.shape) == (self.points,)
            check_rows({} if row else {name: start}, (len(self.grid) - 1, self.points))
        check_place(self.r)
        if self.weights is not None and not bool((self.weights > 0).all()):
            raise ValueError("expected positive weights to start from, got others; a softmax gives no others")
        check_base(self.base, BASES, self.schedule)


class LearnedEPD(Learned):
    """EPD-Solver whose tables are learned; untrained and started from r = 1/2 it is DPM-Solver-2, bit for bit.

    w = softmax(log(start) + p), r = sigmoid(logit(start) + k p) for point k = 1 .. n, a scale is
    start * (1 + A tanh(p / 4)), which is the published 1 - A + 2 A sigmoid(p / 2) around any start; all p are 0 at
    first (published: drawn from N(0, 1)). Points that start at one place have one gradient, and Adam would move them
    together for ever: the factor k parts them.
    """

    kind = "epd"
    config: EPDConfig

    def __init__(self, config: EPDConfig) -> None:
        super().__init__(config)
        if (config.base is None) != (self.kind == "epd"):
            raise ValueError(
                f"expected no base for 'epd' and one for 'epd-plugin', got {config.base} for {self.kind!r}; "
                "build the other one"
            )
        shape = (4, len(config.grid) - 1, config.points)
        self.raw = nn.Parameter(torch.zeros(shape, dtype=torch.float64))

    @property
    def memory(self) -> int:
        return 1 if self.config.base is None else self.config.base.memory

    @property
    def chart(self) -> Chart:
        return self.solver().chart

    def rounds(self, grid: Tensor, afs: bool = False) -> int:
        """See `EPD.rounds`."""
        return _rounds(grid, afs)

    def solver(self) -> EPD:
        """EPD with the tables learned, through which gradients pass."""
        config, (weights, places, dirs, times) = self.config, self.raw
        first = torch.ones_like(weights) if config.weights is None else config.weights.to(weights)
        pace = torch.arange(1, config.points + 1).to(weights)
        return EPD(
            weights=(first.log() + weights).softmax(-1),
            r=place_around(config.r, pace * places),
            scale_dir=around(config.scale_dir, dirs / 2, config.bound_dir),
            scale_time=around(config.scale_time, times / 2, config.bound_time),
            base=config.base,
            schedule=config.schedule,
        )

    def plan(self, grid: Tensor) -> Solver:
        """See `solver` and `Learned.plan`."""
        super().plan(grid)
        return self.solver()

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        """One step on the grid of the configuration."""
        return self.solver().step(field, state, t_next)


class LearnedEPDPlugin(LearnedEPD):
    """EPD-Plugin whose tables are learned; untrained it is the midpoint method whose midpoint the base predicts, which
    for a base of one evaluation is DPM-Solver-2 again."""

    kind = "epd-plugin"


def build(options: SolverOptions) -> Solver:
    """`build_solver("epd", ...)`: the numbers of `weights` and `r`, or, given a grid, ones to learn that start there.

    DPM-Solver-2 may be named as the base, for it is what EPD-Solver starts as.
    """
    return _build(options, LearnedEPD, None, start_schedule(options.base, options.schedule))


def build_plugin(options: SolverOptions) -> Solver:
    """`build_solver("epd-plugin", base=..., ...)`: likewise."""
    return _build(options, LearnedEPDPlugin, options.base, None)


def _build(options: SolverOptions, learned: type[LearnedEPD], base: Solver | None, schedule: Schedule | None) -> Solver:
    weights, r = options.weights, options.r
    if options.grid is not None:
        points = options.points or (DEFAULT_POINTS if weights is None else weights.shape[-1])
        start = EPDConfig(options.grid.detach().double(), points, base, schedule, weights)
        given = {"r": r, "scale_dir": options.scale_dir, "scale_time": options.scale_time}
        return learned(replace(start, **{name: value for name, value in given.items() if value is not None}))
    if weights is None or r is None:
        raise ValueError("expected weights and r of known numbers, or a grid to learn them for, got neither; pass one")
    places, dirs, times = (
        None if given is None else _table(given, weights) for given in (r, options.scale_dir, options.scale_time)
    )
    assert places is not None
    if options.points not in (None, weights.shape[-1]):
        raise ValueError(f"expected points = {weights.shape[-1]} as in weights, got {options.points}; leave it out")
    return EPD(weights, places, dirs, times, base, schedule)


def _table(numbers: float | Tensor, weights: Tensor) -> Tensor:
    table = torch.as_tensor(numbers, dtype=torch.float64)
    return table if table.ndim else table.expand(weights.shape)
