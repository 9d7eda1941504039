"""DyWeight (Zhao et al. 2026, arXiv 2603.11607): a multistep method whose weights, and times, are learned numbers.

Step i moves from the shifted time tau_i towards the node t_{i+1} of the grid,

    x_{i+1}   = x_i   + (t_{i+1} - tau_i) * sum_j W_ij g_j
    tau_{i+1} = tau_i + (t_{i+1} - tau_i) * sum_j W_ij               tau_0 = t_0

where g_j = (x_j - D(x_j, s_j tau_j)) / tau_j is the slope with the network told a scaled time. W is a lower-triangular
band, W_ij the weight in step i of the slope of step j, free of any constraint: rows that do not sum to 1 shift time. In
the noise chart of a VP model x and tau stand for x / alpha and sigma / alpha. Rectified flow takes the velocity at the
scaled time as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from core.charts import Chart, NoiseChart, TimeChart
from core.schedules import EDM, RectifiedFlow, Schedule
from core.solvers.adams_bashforth import AdamsBashforth
from core.solvers.euler import Euler
from core.solvers.ipndm import IPNDM, WEIGHTS
from core.solvers.learned.base import Learned
from core.solvers.multistep import combine
from core.solvers.quadrature import MOST_NODES
from core.state import Evaluation, State, VelocityField, evaluate, nfe_of, push

if TYPE_CHECKING:
    from core.solvers.registry import SolverOptions

ROUNDING = 1e-12
"""Weights whose sum is this near to 1 shift no time: it is the rounding of their sum."""
REFERENCE_OFFSET = 1e-8
"""What the published code adds to tau where it divides by it."""
SPREAD = 0.05
"""Half-width of the noise of the start "perturbed"."""
HISTORY = 3
NO_GRID = torch.empty(0, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class DyWeightConfig:
    """What a DyWeight is built from.

    Attributes:
        grid: (steps + 1,) it is for; empty for numbers that are used on any grid of `steps` steps.
        base: solver to start as: iPNDM is the paper's "AB", Adams-Bashforth has the weights exact on the grid. Its
            chart is where the slopes are weighed.
        history: K, slopes that a step weighs, the newest included.
        steps: number of steps, where there is no grid.
        start: "base"; "uniform", all available slopes alike; "perturbed", the base with noise in weights and scales.
        seed: of that noise.
        analytic: the first step is analytic and has no time scale of its own; where False both ways of starting work.
        schedule: of the model, where the chart is that of time: EDM, or RectifiedFlow; None takes what the field says
            of itself in `schedule`, EDM where it says nothing.
        bounds: time scales are low + (high - low) sigmoid(phi), as for FLUX with (0.5, 1.5); None leaves them free.
        reference_compatible: divide by tau + 1e-8 as the published code does (it feared tau = 0). Numbers trained by
            that code belong to it.

    Raises:
        ValueError: a value that makes no solver.
    """

    grid: Tensor = NO_GRID
    base: Euler | IPNDM | AdamsBashforth = field(default_factory=lambda: IPNDM(HISTORY))
    history: int = HISTORY
    steps: int | None = None
    start: Literal["base", "uniform", "perturbed"] = "base"
    seed: int = 0
    analytic: bool = False
    schedule: Schedule | None = None
    bounds: tuple[float, float] | None = None
    reference_compatible: bool = False

    def __post_init__(self) -> None:
        if len(self.grid) == 0 and (self.steps is None or isinstance(self.base, AdamsBashforth)):
            raise ValueError("expected a grid for weights that depend on it, got none; pass grid=core.build_grid(...)")
        if not isinstance(self.base, Euler | IPNDM | AdamsBashforth):
            raise ValueError(
                f"expected a base among Euler, IPNDM and AdamsBashforth, got {type(self.base).__name__}; "
                "DyWeight starts from a table of weights of slopes"
            )
        if not isinstance(self.base.chart, TimeChart | NoiseChart):
            raise ValueError(
                f"expected a base in the time or the noise chart, got {type(self.base.chart).__name__}; "
                "DyWeight shifts and scales noise levels"
            )
        if self.history < self.base.memory:
            raise ValueError(
                f"expected history >= {self.base.memory}, the memory of the base, got {self.history}; "
                "a shorter band cannot hold its weights"
            )
        if self.start not in ("base", "uniform", "perturbed"):
            raise ValueError(
                f"expected start 'base', 'uniform' or 'perturbed', got {self.start!r}; choose one of these"
            )
        if self.bounds is not None and not 0 <= self.bounds[0] < 1 < self.bounds[1]:
            raise ValueError(f"expected bounds 0 <= low < 1 < high, got {self.bounds}; scales start at 1")

    @property
    def count(self) -> int:
        """Number of steps."""
        return len(self.grid) - 1 if self.steps is None else self.steps


class DyWeight(Learned):
    """One evaluation per step; K (2 N + 1 - K) / 2 weights and N time scales, shared by all samples.

    Attributes:
        weights: (N, N) parameter W; only the band is used.
        time_scale: (N,) parameter s; entry 0 is not used where the first step is analytic. With `bounds` the parameter
            is `phi` (N,) instead.
    """

    kind = "dyweight"
    config: DyWeightConfig
    band: Tensor

    def __init__(self, config: DyWeightConfig) -> None:
        super().__init__(config)
        count = config.count
        rows = torch.arange(count)
        age = rows[:, None] - rows
        self.register_buffer("band", (age >= 0) & (age < config.history), persistent=False)
        generator = torch.Generator().manual_seed(config.seed)
        spread = SPREAD if config.start == "perturbed" else 0.0
        weights = _uniform(self.band) if config.start == "uniform" else _table(config.base, config.grid, count)
        scale = torch.ones(count, dtype=torch.float64) + spread * _noise((count,), generator)
        self.weights = nn.Parameter(weights + spread * self.band * _noise((count, count), generator))
        if config.bounds is None:
            self.time_scale = nn.Parameter(scale)
        else:
            low, high = config.bounds
            self.phi = nn.Parameter(((scale - low) / (high - low)).logit())

    @property
    def memory(self) -> int:
        return min(self.config.history, self.config.count)

    @property
    def chart(self) -> Chart:
        return self.config.base.chart

    @property
    def scales(self) -> Tensor:
        """(N,) time scales s."""
        if self.config.bounds is None:
            return self.time_scale
        low, high = self.config.bounds
        return low + (high - low) * self.phi.sigmoid()

    def plan(self, grid: Tensor) -> Run:
        """The times and weights of every step on this grid, with gradients to the parameters.

        Raises:
            ValueError: another grid than the configured one, another number of steps, or shifted times that leave the
                noise chart.
        """
        if len(self.config.grid):
            super().plan(grid)
        elif len(grid) != self.config.count + 1:
            raise ValueError(
                f"expected a grid of {self.config.count} steps for this 'dyweight', got {len(grid) - 1}; "
                "use the numbers that were found for that many"
            )
        weights = (self.weights * self.band).to(grid)
        nodes = self.chart.coordinate(grid)
        tau = _shifted(nodes, weights)
        if isinstance(self.chart, NoiseChart) and bool((tau.detach()[:-1] <= 0).any()):
            raise ValueError(f"expected shifted times above 0, got {tau.tolist()} in sigma / alpha; train more gently")
        queries = (self.scales.to(grid) * tau[:-1]).abs()
        gains = queries / (tau[:-1] + REFERENCE_OFFSET) if self.config.reference_compatible else queries / tau[:-1]
        rows = [row[max(0, i + 1 - self.memory) : i + 1] for i, row in enumerate(_numbers(weights))]
        return Run(
            config=self.config,
            memory=self.memory,
            times=(*self._clock(tau[:-1], grid[:-1]), grid[-1]),
            queries=self._clock(queries, grid[:-1]),
            weights=tuple(row[::-1] for row in rows),
            gains=_numbers(gains),
        )

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        raise ValueError(
            "expected a planned DyWeight, got one that knows no grid; use core.integrate, core.trajectory or plan(grid)"
        )

    def _clock(self, tau: Tensor, nodes: Tensor) -> tuple[Tensor, ...]:
        """Times of the model's clock where the chart's coordinate is tau; exactly the nodes where it is theirs."""
        if isinstance(self.chart, TimeChart):
            return tau.unbind()
        schedule = self.chart.schedule  # pyright: ignore[reportAttributeAccessIssue]
        rounding = nodes - schedule.time_at(schedule.ratio(nodes))
        return (schedule.time_at(tau) + rounding).unbind()


@dataclass(frozen=True, eq=False)
class Run:
    """A DyWeight on one grid.

    Attributes:
        config: what it was built from.
        memory: slopes that a step weighs.
        times: N + 1 times () of the states: the shifted ones, and the end of the grid.
        queries: N times () that the network is told.
        weights: per step, newest first; floats, or tensors () where there is a gradient.
        gains: N factors alike: what a slope taken at the scaled time is multiplied by to be one at the shifted time.
    """

    config: DyWeightConfig
    memory: int
    times: tuple[Tensor, ...]
    queries: tuple[Tensor, ...]
    weights: tuple[Sequence[float | Tensor], ...]
    gains: Sequence[float | Tensor]
    order: int | None = None

    @property
    def chart(self) -> Chart:
        return self.config.base.chart

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        i = state.step
        evaluation, calls = self._evaluation(field, state)
        buffer = push(evaluation, state.buffer, self.memory)
        weights = self.weights[i]
        if self._gains_apply(field):
            # the analytic first slope was not taken at a scaled time: it is the one whose time is no query
            made_at = range(i, i - len(buffer), -1)
            known = zip(weights, buffer, made_at, strict=True)
            weights = [w * self.gains[j] if e.t is self.queries[j] else w for w, e, j in known]
        moved = combine(self.chart, state, t_next, buffer, weights, calls)
        return replace(moved, x=self._rescaled(moved.x, t_next, self.times[i + 1]), t=self.times[i + 1])

    def _evaluation(self, field: VelocityField, state: State) -> tuple[Evaluation, int]:
        if state.step == 0 and state.buffer:
            return state.buffer[0], 0
        if state.step == 0 and self.config.analytic:
            raise ValueError(
                "expected an analytic first step, got none; these numbers have no time scale for a first evaluation: "
                "pass afs=True to core.integrate"
            )
        query = self.queries[state.step]
        return evaluate(field, self._rescaled(state.x, self.times[state.step], query), query), nfe_of(field)

    def _rescaled(self, x: Tensor, t: Tensor, t_new: Tensor) -> Tensor:
        """The state at t as one at t_new with the same y: only in the noise chart is that another x."""
        if isinstance(self.chart, TimeChart):
            return x
        return self.chart.back(self.chart.to(x, t)[0], t_new) if not torch.equal(t, t_new) else x

    def _gains_apply(self, field: VelocityField) -> bool:
        if isinstance(self.chart, NoiseChart):
            return True
        schedule = self.config.schedule or getattr(field, "schedule", None)
        return schedule is None or isinstance(schedule, EDM)


def _shifted(nodes: Tensor, weights: Tensor) -> Tensor:
    """tau (N + 1,) from nodes (N + 1,) and W (N, N); exactly the nodes where rows sum to 1, up to rounding.

    tau_{i+1} = t_{i+1} + (sum_j W_ij - 1) (t_{i+1} - tau_i) is the recursion of the paper.
    """
    excess = weights.sum(1) - 1
    excess = torch.where(excess.detach().abs() <= ROUNDING, excess - excess.detach(), excess)  # 0, with its gradient
    tau = [nodes[0]]
    for node, beyond in zip(nodes[1:], excess, strict=True):
        tau.append(node + beyond * (node - tau[-1]))
    return torch.stack(tau)


def _numbers(values: Tensor) -> Any:
    """Nested sequences of the values: floats, by which tensors are scaled faster, but where there is a gradient."""
    if not (values.requires_grad and torch.is_grad_enabled()):
        return values.tolist()
    return [row.unbind() for row in values] if values.ndim == 2 else values.unbind()


def _uniform(band: Tensor) -> Tensor:
    return band.double() / band.sum(1, keepdim=True)


def _table(base: Euler | IPNDM | AdamsBashforth, grid: Tensor, count: int) -> Tensor:
    """W (count, count) of a handcrafted solver; the first steps weigh what there is."""
    table = torch.zeros(count, count, dtype=torch.float64)
    for i in range(count):
        known = min(i + 1, base.memory)
        if isinstance(base, AdamsBashforth):
            nodes = grid.double()[i + 1 - known : i + 1].flip(0)
            buffer = tuple(Evaluation(t, t, t) for t in nodes)
            newest_first = torch.as_tensor(base._weights(buffer, grid.double()[i + 1]), dtype=torch.float64)
        else:
            newest_first = torch.tensor(WEIGHTS[known - 1], dtype=torch.float64)
        table[i, i + 1 - known : i + 1] = newest_first.flip(0)
    return table


def _noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Even in [-1, 1)."""
    return 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1


def from_numbers(
    weights: Tensor,
    time_scale: Tensor | None = None,
    *,
    grid: Tensor | None = None,
    schedule: Schedule | None = None,
    reference_compatible: bool = True,
) -> DyWeight:
    """A DyWeight with known numbers, e.g. published ones; like one read from a file it asks for no gradient.

    Args:
        weights: (N, N) lower-triangular.
        time_scale: (N,); (N - 1,) for numbers that go with an analytic first step; None for ones.
        grid: (N + 1,) they are for; None lets them run on any grid of N steps.
        schedule: see `DyWeightConfig`; a VP schedule works in its noise chart.
        reference_compatible: see `DyWeightConfig`; published numbers were found with it.

    Raises:
        ValueError: numbers that do not belong together.
    """
    weights = weights.detach().double()
    count = len(weights)
    if weights.shape != (count, count) or not count or bool((weights.triu(1) != 0).any()):
        raise ValueError(
            f"expected lower-triangular weights (steps, steps), got {tuple(weights.shape)}; "
            "row i weighs the slopes of steps 0 to i"
        )
    scale = torch.ones(count, dtype=torch.float64) if time_scale is None else time_scale.detach().double()
    if scale.shape not in ((count,), (count - 1,)):
        raise ValueError(
            f"expected a time scale for each of {count} steps, or {count - 1} after an analytic first one, "
            f"got {tuple(scale.shape)}; pass the two that were trained together"
        )
    if not bool(torch.isfinite(weights).all() and torch.isfinite(scale).all()):
        raise ValueError("expected finite weights and time scales, got others; the file they come from is damaged")
    analytic = len(scale) < count
    config = DyWeightConfig(
        grid=NO_GRID if grid is None else grid.detach().double(),
        base=Euler(_chart(schedule)),
        history=1 + max(i - j for i, j in weights.nonzero().tolist()) if bool(weights.any()) else 1,
        steps=count,
        analytic=analytic,
        schedule=schedule,
        reference_compatible=reference_compatible,
    )
    if grid is not None and len(grid) != count + 1:
        raise ValueError(f"expected a grid of {count} steps for these weights, got {len(grid) - 1}; give their own")
    solver = DyWeight(config)
    with torch.no_grad():
        solver.weights.copy_(weights)
        solver.time_scale.copy_(torch.cat([torch.ones(1, dtype=torch.float64), scale]) if analytic else scale)
    return solver.eval().requires_grad_(False)


def build(options: SolverOptions) -> DyWeight:
    """`build_solver("dyweight", ...)`: from `weights` and `time_scale`, else untrained from `base`, `grid`, `history`.

    The divisor of the published code goes with given weights, unless `reference_compatible` says otherwise.
    """
    if options.weights is not None:
        exact = options.reference_compatible is False
        return from_numbers(
            options.weights,
            options.time_scale,
            grid=options.grid,
            schedule=options.schedule,
            reference_compatible=not exact,
        )
    if options.time_scale is not None:
        raise ValueError("expected weights beside time_scale, got none; they are trained together")
    history = HISTORY if options.history is None else options.history
    base = options.base or IPNDM(min(history, MOST_NODES), _chart(options.schedule))
    grid = NO_GRID if options.grid is None else options.grid.detach().double()
    compatible = bool(options.reference_compatible)
    return DyWeight(
        DyWeightConfig(grid, base, history, schedule=options.schedule, reference_compatible=compatible)  # pyright: ignore
    )


def _chart(schedule: Schedule | None) -> Chart:
    return TimeChart() if schedule is None or isinstance(schedule, EDM | RectifiedFlow) else NoiseChart(schedule)
