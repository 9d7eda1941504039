"""AMED: one more evaluation inside each step, at a learned place (Zhou, Chen, Wang & Chen 2024, arXiv 2312.00094).

    t_m = t'^r t^(1-r)        y = x moved to t_m        e = (y - D(y; c_t t_m)) / t_m  (EDM)

AMED-Solver moves x along c_d e from t to t'. AMED-Plugin lets a base solver take the two halves t -> t_m -> t' in one
history and multiplies the change of the second by c_d; DPM-Solver-2, which has a stage of its own, puts it at t_m. r,
c_d and c_t are constants, one row a step, or numbers a sample that a small network reads off the features of the first
evaluation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from core.charts import Chart
from core.schedules import Schedule
from core.solvers.adams_bashforth import AdamsBashforth
from core.solvers.dpm_solver_2 import DPMSolver2
from core.solvers.dpm_solver_pp import DPMSolverPP
from core.solvers.euler import Euler
from core.solvers.ipndm import IPNDM
from core.solvers.learned.base import Learned
from core.solvers.learned.bottleneck import Predictor, observed_with_features
from core.solvers.learned.intermediate import (
    Number,
    TimeScaled,
    around,
    chart_of_base,
    check_base,
    check_place,
    check_rows,
    observed,
    place_around,
    rescaled,
    row,
    start_schedule,
    time_between,
)
from core.solvers.multistep import combine
from core.state import Planned, Solver, State, VelocityField, evaluate, nfe_of

if TYPE_CHECKING:
    from core.solvers.options import SolverOptions

BASES = (Euler, IPNDM, AdamsBashforth, DPMSolver2, DPMSolverPP)
"""Solvers that AMED-Plugin works on."""


class Numbers(NamedTuple):
    """What a step is told, as floats, 0-dim tensors or, a sample each, (B, 1, ..., 1); or the rows of all steps."""

    r: Number
    scale_dir: Number
    scale_time: Number


Prediction = Callable[[Tensor | None, State, Tensor], Numbers]
"""(features (B, F) or None where there are none, state, next time) -> numbers of the step."""


@dataclass(frozen=True)
class AMED:
    """AMED with known numbers. Two evaluations a step; the first step's first is free with an analytic start.

    AMED-Solver with r = 1/2 and scales 1 is DPM-Solver-2, the plugin with scales 1 its base on the grid `refined`. A
    step to t = 0, which has no geometric middle, is one Euler step, or one step of the base.

    Attributes:
        r: place of the inner evaluation, in (0, 1): one number, or one a step (steps,).
        scale_dir: factor of the slope there, likewise.
        scale_time: factor of the noise level that the network is told there, likewise.
        base: of AMED-Plugin, one of `BASES`; None is AMED-Solver.
        schedule: of the model; without it EDM, or straight flows in their own time. A base brings its own.
        predict: gives the numbers of each step instead.

    Raises:
        ValueError: r outside (0, 1), another base, a schedule beside a base.
    """

    r: float | Tensor = 0.5
    scale_dir: float | Tensor = 1.0
    scale_time: float | Tensor = 1.0
    base: Solver | None = None
    schedule: Schedule | None = None
    predict: Prediction | None = None

    def __post_init__(self) -> None:
        check_place(self.r)
        check_base(self.base, BASES, self.schedule)

    @property
    def order(self) -> int | None:
        return None

    @property
    def chart(self) -> Chart:
        return chart_of_base(self.base, self.schedule)

    @property
    def _clock(self) -> Schedule | None:
        return getattr(self.chart, "schedule", None)

    @property
    def memory(self) -> int:
        return 1 if self.base is None else self.base.memory

    def plan(self, grid: Tensor) -> AMED:
        """The same with its base as it is for the refined grid.

        Raises:
            ValueError: rows that are not one a step; a base that needs the grid, which a prediction makes unknown.
        """
        check_rows({"r": self.r, "scale_dir": self.scale_dir, "scale_time": self.scale_time}, (len(grid) - 1,))
        if not isinstance(self.base, Planned):
            return self
        if self.predict is not None:
            raise ValueError(
                f"expected a base that needs no grid beside a predictor, got {type(self.base).__name__}; "
                "the middle of a step is known only there: learn one row a step, or use euler or ipndm"
            )
        return replace(self, base=self.base.plan(self.refined(grid)))

    def refined(self, grid: Tensor) -> Tensor:
        """The grid with each step's inner time (2 * steps + 1,); a step to t = 0 stays whole."""
        times = [grid[0]]
        for step, (t, t_next) in enumerate(itertools.pairwise(grid)):
            if t_next > 0:
                times.append(time_between(self._clock, t, t_next, row(self.r, step)).to(grid))
            times.append(t_next)
        return torch.stack(times)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        if self.predict is None:
            start = observed(field, state, self.memory)
            numbers = Numbers(*(row(rows, state.step) for rows in (self.r, self.scale_dir, self.scale_time)))
        else:
            start, features = observed_with_features(field, state, self.memory)
            numbers = self.predict(features, state, t_next)
        if self.base is None or isinstance(self.base, DPMSolver2):
            return self._inner_stage(field, start, t_next, numbers)
        return self._two_steps(field, start, t_next, numbers, self.base)

    def _middle(self, state: State, t_next: Tensor, r: Number) -> Tensor:
        t = time_between(self._clock, state.t, t_next, r)
        return t.to(state.x.dtype) if t.ndim else t  # times a sample would promote the state

    def _inner_stage(self, field: VelocityField, start: State, t_next: Tensor, numbers: Numbers) -> State:
        """x along c_d e, or, for DPM-Solver-2, along c_d (e / (2 r) + (1 - 1 / (2 r)) d)."""
        if t_next == 0:
            return combine(self.chart, start, t_next, start.buffer, (1.0,), 0)
        t = self._middle(start, t_next, numbers.r)
        y = self.chart.move(start.x, start.t, t, self.chart.slope(start.buffer[0]))
        middle = evaluate(TimeScaled(field, numbers.scale_time, self._clock), y, t)
        share = 1.0 if self.base is None else 1 / (2 * numbers.r)
        weights = (numbers.scale_dir * share, numbers.scale_dir * (1 - share))[: 1 if self.base is None else 2]
        end = combine(self.chart, start, t_next, (middle, start.buffer[0]), weights, nfe_of(field))
        return replace(end, buffer=start.buffer)

    def _two_steps(self, field: VelocityField, start: State, t_next: Tensor, numbers: Numbers, base: Solver) -> State:
        first = replace(start, step=2 * start.step)  # what the base counts
        if t_next == 0:
            return replace(base.step(field, first, t_next), step=start.step + 1)
        middle = base.step(field, first, self._middle(start, t_next, numbers.r))
        end = base.step(TimeScaled(field, numbers.scale_time, self._clock), middle, t_next)
        return replace(end, x=rescaled(self.chart, middle, end, numbers.scale_dir), step=start.step + 1)


@dataclass(frozen=True)
class AMEDConfig:
    """What a `LearnedAMED` is built from.

    Attributes:
        grid: (steps + 1,) times it is for.
        base: of the plugin; None for AMED-Solver.
        schedule: see `AMED`.
        r, scale_dir, scale_time: numbers to start from, see `AMED`.
        bound_dir, bound_time: how far, relatively, scale_dir and scale_time may go from there.
        features: numbers a sample that the field offers to the predictor; 0 learns one row a step and needs none.
    """

    grid: Tensor
    base: Solver | None = None
    schedule: Schedule | None = None
    r: float | Tensor = 0.5
    scale_dir: float | Tensor = 1.0
    scale_time: float | Tensor = 1.0
    bound_dir: float = 0.01
    bound_time: float = 0.0
    features: int = 0

    def __post_init__(self) -> None:
        check_place(self.r)
        check_base(self.base, BASES, self.schedule)
        starts = {"r": self.r, "scale_dir": self.scale_dir, "scale_time": self.scale_time}
        check_rows(starts, () if self.features else (len(self.grid) - 1,))


class LearnedAMED(Learned):
    """AMED-Solver whose numbers are learned; untrained and started from r = 1/2 it is DPM-Solver-2, bit for bit.

    r = sigmoid(logit(start) + p), a scale is start * (1 + A tanh(p / 2)), which is the published 1 - A + 2 A sigmoid(p)
    around any start; all p are 0 at first. The published p come from a `Predictor`, which `features` asks for (and then
    the field must be a `Bottleneck`); else there is one p a step. The published training follows the teacher's path,
    see core.path_supervision.
    """

    kind = "amed"
    config: AMEDConfig

    def __init__(self, config: AMEDConfig) -> None:
        super().__init__(config)
        if (config.base is None) != (self.kind == "amed"):
            raise ValueError(
                f"expected no base for 'amed' and one for 'amed-plugin', got {config.base} for {self.kind!r}; "
                "build the other one"
            )
        self.predictor = Predictor(config.features) if config.features else None
        shape = None if config.features else (3, len(config.grid) - 1)
        self.raw = None if shape is None else nn.Parameter(torch.zeros(shape, dtype=torch.float64))

    @property
    def memory(self) -> int:
        return 1 if self.config.base is None else self.config.base.memory

    @property
    def chart(self) -> Chart:
        return chart_of_base(self.config.base, self.config.schedule)

    def plan(self, grid: Tensor) -> Solver:
        """AMED with the numbers learned, through which gradients pass; see `Learned.plan`."""
        super().plan(grid)
        base, schedule = self.config.base, self.config.schedule
        if self.raw is None:
            return AMED(base=base, schedule=schedule, predict=self._predict).plan(grid)
        return AMED(*self.numbers(self.raw), base, schedule).plan(grid)

    def numbers(self, raw: Tensor) -> Numbers:
        """Raw numbers (3, ...) made r, scale_dir and scale_time (...)."""
        config = self.config
        return Numbers(
            place_around(config.r, raw[0]),
            around(config.scale_dir, raw[1], config.bound_dir),
            around(config.scale_time, raw[2], config.bound_time),
        )

    def _predict(self, features: Tensor | None, state: State, t_next: Tensor) -> Numbers:
        assert self.predictor is not None
        raw = self.predictor(features, state.t, t_next, len(state.x)).to(state.x.dtype)
        return self.numbers(raw.T.unflatten(1, (-1, *(1,) * (state.x.ndim - 1))))

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        """One step on the grid of the configuration."""
        return self.plan(self.config.grid).step(field, state, t_next)


class LearnedAMEDPlugin(LearnedAMED):
    """AMED-Plugin whose numbers are learned; untrained it is its base on the grid with the geometric middles, or, for
    DPM-Solver-2, the base itself: bit for bit, but for DPM-Solver++ while gradients are recorded, where its
    coefficients are tensors and round otherwise."""

    kind = "amed-plugin"


def build(options: SolverOptions) -> Solver:
    """`build_solver("amed", ...)`: known numbers for grids of any number of steps, or, given a grid, ones to learn.

    DPM-Solver-2 may be named as the base, for it is what AMED-Solver starts as.
    """
    return _build(options, LearnedAMED, None, start_schedule(options.base, options.schedule))


def build_plugin(options: SolverOptions) -> Solver:
    """`build_solver("amed-plugin", base=..., ...)`: likewise."""
    return _build(options, LearnedAMEDPlugin, options.base, None)


def _build(o: SolverOptions, learned: type[LearnedAMED], base: Solver | None, schedule: Schedule | None) -> Solver:
    r, dirs, times = (start if x is None else x for x, start in ((o.r, 0.5), (o.scale_dir, 1.0), (o.scale_time, 1.0)))
    if o.grid is None:
        return AMED(r, dirs, times, base, schedule)
    return learned(AMEDConfig(o.grid.detach().double(), base, schedule, r, dirs, times))
