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
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from core.charts import Chart, NoiseChart, TimeChart
from core.schedules import EDM, RectifiedFlow, Schedule
from core.solvers.euler import Euler
from core.solvers.ipndm import IPNDM
from core.solvers.learned.base import Learned
from core.solvers.learned.dyweight_run import Kept, Run, numbers, shifted
from core.solvers.learned.start_tables import LinearMultistep, depends_on_grid, table_of, uniform_table
from core.solvers.quadrature import MOST_NODES
from core.state import State, VelocityField

if TYPE_CHECKING:
    from core.solvers.options import SolverOptions

REFERENCE_OFFSET = 1e-8
"""What the published code adds to tau where it divides by it."""
SPREAD = 0.05  # half-width of the noise of the start "perturbed"
HISTORY = 3
NO_GRID = torch.empty(0, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class DyWeightConfig:
    """What a DyWeight is built from.

    Attributes:
        grid: (steps + 1,) it is for; empty for numbers that are used on any grid of `steps` steps.
        base: solver to start as: iPNDM is the paper's "AB", Adams-Bashforth and DEIS have weights found for the grid.
            Its chart is where the slopes are weighed.
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
    base: LinearMultistep = field(default_factory=lambda: IPNDM(HISTORY))
    history: int = HISTORY
    steps: int | None = None
    start: Literal["base", "uniform", "perturbed"] = "base"
    seed: int = 0
    analytic: bool = False
    schedule: Schedule | None = None
    bounds: tuple[float, float] | None = None
    reference_compatible: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.base, LinearMultistep):
            raise ValueError(
                f"expected a base among Euler, IPNDM, AdamsBashforth and DEIS, got {type(self.base).__name__}; "
                "DyWeight starts from a table of weights of slopes"
            )
        if len(self.grid) == 0 and (self.steps is None or depends_on_grid(self.base)):
            raise ValueError("expected a grid for weights that depend on it, got none; pass grid=core.build_grid(...)")
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
            raise ValueError(f"expected start 'base', 'uniform' or 'perturbed', got {self.start!r}; choose one")
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
        self._kept = Kept()
        count = config.count
        rows = torch.arange(count)
        age = rows[:, None] - rows
        self.register_buffer("band", (age >= 0) & (age < config.history), persistent=False)
        generator = torch.Generator().manual_seed(config.seed)
        spread = SPREAD if config.start == "perturbed" else 0.0
        weights = uniform_table(self.band) if config.start == "uniform" else table_of(config.base, config.grid, count)
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

        Without gradients it is found once for a grid and the numbers as they are, and kept.

        Raises:
            ValueError: another grid than the configured one, another number of steps, or shifted times that leave the
                noise chart.
        """
        learned = tuple(self.parameters())
        learning = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in learned)
        if learning or torch.is_inference_mode_enabled():  # tensors of that mode are of no use outside it
            return self._run(grid)
        return self._kept.run(grid, *learned, find=partial(self._run, grid))

    def _run(self, grid: Tensor) -> Run:
        if len(self.config.grid):
            super().plan(grid)
        elif len(grid) != self.config.count + 1:
            raise ValueError(
                f"expected a grid of {self.config.count} steps for this 'dyweight', got {len(grid) - 1}; "
                "use the numbers that were found for that many"
            )
        weights = (self.weights * self.band).to(grid)
        nodes = self.chart.coordinate(grid)
        tau = self._reached(nodes, weights)
        if isinstance(self.chart, NoiseChart) and bool((tau.detach()[:-1] <= 0).any()):
            raise ValueError(f"expected shifted times above 0, got {tau.tolist()} in sigma / alpha; train more gently")
        queries = (self.scales.to(grid) * tau[:-1]).abs()
        gains = queries / (tau[:-1] + REFERENCE_OFFSET) if self.config.reference_compatible else queries / tau[:-1]
        return Run(
            chart=self.chart,
            schedule=self.config.schedule,
            analytic=self.config.analytic,
            memory=self.memory,
            times=(*self._clock(tau[:-1], grid[:-1]), grid[-1]),
            queries=self._clock(queries, grid[:-1]),
            weights=self._newest_first(weights),
            gained=self._newest_first(weights * gains),
        )

    def _reached(self, nodes: Tensor, weights: Tensor) -> Tensor:
        """tau (N + 1,): the times of the states on the way; a study of what shifting brings replaces it."""
        return shifted(nodes, weights)

    def _newest_first(self, table: Tensor) -> tuple[Sequence[float | Tensor], ...]:
        """The band of a table by rows."""
        return tuple(row[max(0, i + 1 - self.memory) : i + 1][::-1] for i, row in enumerate(numbers(table)))

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
        compatible = options.reference_compatible is not False
        return from_numbers(
            options.weights, options.time_scale, grid=options.grid, schedule=options.schedule,
            reference_compatible=compatible,
        )  # fmt: skip
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
