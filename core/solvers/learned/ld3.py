"""LD3: a handcrafted solver on learned times (Tong et al. 2025, "Learning to discretize denoising diffusion ODEs",
arXiv 2405.15506)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from core.charts import Chart, TimeChart
from core.schedules import EDM, Schedule
from core.solvers.learned.base import Learned
from core.solvers.learned.increments import Moved, StudentConfig, require_one_evaluation
from core.solvers.learned.times import MonotoneTimes
from core.state import Evaluation, Planned, Solver, State, VelocityField

if TYPE_CHECKING:
    from core.solvers.options import SolverOptions


@dataclass(frozen=True, eq=False)
class LD3Config:
    """What an LD3 is built from.

    Attributes:
        base: handcrafted solver of one evaluation a step.
        grid: (steps + 1,) descending float64 times it starts from; the first and the last stay.
        schedule: of the model; None for that of the base's chart, or EDM.
        coordinate: times are learned in "lambda" = log(alpha / sigma), the paper's choice for pixels, or in "time", for
            latents; None takes lambda where it is finite at both ends.
        reference_compatible: network times are bounded as by the published code: its bound in lambda is made from the
            gaps between the raw numbers xi in place of those between the lambdas, so that on an even grid, and first of
            all at initialisation, network times cannot move.

    Raises:
        ValueError: a coordinate that is not known or not finite on the grid.
    """

    base: Solver
    grid: Tensor
    schedule: Schedule | None = None
    coordinate: Literal["lambda", "time"] | None = None
    reference_compatible: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", self.grid.detach().double().cpu())
        if self.coordinate not in (None, "lambda", "time"):
            raise ValueError(f"expected coordinate 'lambda' or 'time', got {self.coordinate!r}; or leave it out")
        finite = bool(torch.isfinite(self.model.log_snr(self.grid[[0, -1]])).all())
        if self.coordinate is None:
            object.__setattr__(self, "coordinate", "lambda" if finite else "time")
        elif self.coordinate == "lambda" and not finite:
            raise ValueError(
                f"expected a grid with finite lambda at both ends, got {self.grid[[0, -1]].tolist()}; "
                "keep away from the times without noise or without data, or use coordinate='time'"
            )

    @property
    def chart(self) -> Chart:
        return getattr(self.base, "chart", TimeChart())

    @property
    def model(self) -> Schedule:
        return self.schedule or getattr(self.chart, "schedule", None) or EDM()


class LD3(Learned):
    """Learned times t_i of the steps, and apart from them times t^c_i that the network is told; 2 (N + 1) numbers.

    With u = -lambda (or t), the gaps of u are in proportion to softmax(xi), and t^c is u + clip(xi^c, -d, d), where d
    is half of the smallest gap, through which no gradient passes; the ends are left alone. The base solver steps
    between the t_i with what the network predicts, data or noise as the base has it, at t^c_i. Untrained it is the base
    on its grid, to the last bit.

    It is called with the grid of its training; states carry the learned times. `grid` is the learned grid, good for any
    other solver too.

    Attributes:
        times: parameter `xi` (N + 1,); see `MonotoneTimes`.
        shifts: parameter xi^c (N + 1,), in units of u.

    Raises:
        ValueError: the base is learned, stochastic, or of more than one evaluation a step.
    """

    kind = "ld3"
    config: LD3Config

    def __init__(self, config: LD3Config) -> None:
        super().__init__(config)
        require_one_evaluation(self.kind, StudentConfig(config.base, config.grid))
        self.times = MonotoneTimes(self._coordinate(config.grid))
        self.shifts = nn.Parameter(torch.zeros(len(config.grid), dtype=torch.float64))

    @property
    def memory(self) -> int:
        return self.config.base.memory

    @property
    def chart(self) -> Chart:
        return self.config.chart

    @property
    def grid(self) -> Tensor:
        """(N + 1,) the learned times, detached."""
        return self.all_times()[0].detach()

    def all_times(self) -> tuple[Tensor, Tensor]:
        """Times of the steps and times told to the network, (N + 1,) each, with gradients."""
        u = self.times()
        gaps = self.times.xi.roll(1).diff().abs() if self._raw_bound else -u.diff()
        most = gaps.detach().min() / 2
        shift = torch.clamp(self.shifts, -most, most)
        return self._clock(u), self._clock(torch.cat([u[:1], u[1:-1] + shift[1:-1], u[-1:]]))

    def plan(self, grid: Tensor) -> Timed:
        """The base on the learned times; raises ValueError for another grid than that of its training."""
        super().plan(grid)
        times, network_times = (values.to(grid.device) for values in self.all_times())
        base = self.config.base.plan(times) if isinstance(self.config.base, Planned) else self.config.base
        return Timed(base, self.chart, times.unbind(), network_times.unbind())

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        return self.plan(self.config.grid).step(field, state, t_next)

    @property
    def _raw_bound(self) -> bool:
        return self.config.reference_compatible and self.config.coordinate == "lambda"

    def _coordinate(self, times: Tensor) -> Tensor:
        return self.config.model.ratio(times).log() if self.config.coordinate == "lambda" else times

    def _clock(self, u: Tensor) -> Tensor:
        """Times of the coordinate u; exactly those of the grid where it is theirs."""
        if self.config.coordinate == "time":
            return u
        time_at, grid = self.config.model.time_at, self.times.grid
        return time_at(u.exp()) + (self.config.grid.to(u) - time_at(grid.exp()))


@dataclass(frozen=True, eq=False)
class Timed:
    """A base solver on N + 1 times of its own, the network told others."""

    base: Solver
    chart: Chart
    times: tuple[Tensor, ...]
    network_times: tuple[Tensor, ...]
    order: int | None = None

    @property
    def memory(self) -> int:
        return self.base.memory

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        query = self.network_times[state.step]

        def place(number: int, x: Tensor, t: Tensor, seen: Sequence[Evaluation]) -> tuple[Tensor, Tensor]:
            return x, query

        return self.base.step(Moved(field, self.chart, place), state, self.times[state.step + 1])


def build(options: SolverOptions) -> LD3:
    """`build_solver("ld3", base=..., grid=...)`."""
    assert options.base is not None
    assert options.grid is not None
    compatible = bool(options.reference_compatible)
    return LD3(LD3Config(options.base, options.grid, options.schedule, reference_compatible=compatible))
