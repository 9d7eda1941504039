"""S4S-Alt: learned coefficients and learned times (Frankel et al. 2025, arXiv 2502.17423, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from core.solvers.learned.base import check_grid
from core.solvers.learned.increments import Moved, StudentConfig
from core.solvers.learned.s4s_lms import S4SMultistep
from core.solvers.learned.times import DecoupledTimes, MonotoneTimes
from core.state import Evaluation, Solver, State, VelocityField


@dataclass(frozen=True, eq=False)
class AlternatingConfig(StudentConfig):
    """That of a student, and how far network times may be from those of the steps.

    Attributes:
        reach: alpha of the paper's appendix E.2, at most 1/2: a fraction of the smallest gap between times.
    """

    reach: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.reach <= 0.5:
            raise ValueError(f"expected reach in [0, 1/2], got {self.reach}; beyond, network times may change places")


class S4SAlternating(S4SMultistep):
    """S4S-LMS that also learns its times t_i, and apart from them the times t^c_i that the network is told.

    The paper's count of coefficients, k (2 N + 1 - k) / 2, and N + 1 numbers each for t and t^c (see
    `core.solvers.learned.times`). The grid it is called with is that of its training; states carry the learned times.
    A base whose weights depend on times reads the learned ones where it finds its weights step by step, those of the
    grid where it tabulates them. Trained by `core.alternating.train_alternating`, jointly by `core.train_solver`.

    Raises:
        ValueError: the base is no multistep method of one evaluation a step.
    """

    kind = "s4s-alt"

    def __init__(self, config: AlternatingConfig) -> None:
        super().__init__(config)
        self.times = MonotoneTimes(config.grid)
        self.network_times = DecoupledTimes(len(config.grid), config.reach)

    def plan(self, grid: Tensor) -> Solver:
        """This solver with its times worked out once; raises ValueError for another grid than that of its training."""
        check_grid(self.kind, self.config.grid, grid)
        times = self.times()
        return Timed(self, tuple(times.unbind()), tuple(self.network_times(times).unbind()))

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        return self.plan(self.config.grid).step(field, state, t_next)

    def step_between(self, field: VelocityField, state: State, t_next: Tensor, t_query: Tensor) -> State:
        """A step from the state's time to `t_next` with the network told `t_query`."""

        def place(number: int, x: Tensor, t: Tensor, seen: Sequence[Evaluation]) -> tuple[Tensor, Tensor]:
            return x, t_query

        return super().step(Moved(field, self.chart, place), state, t_next)


@dataclass(frozen=True, eq=False)
class Timed:
    """An `S4SAlternating` with its N + 1 times."""

    solver: S4SAlternating
    times: tuple[Tensor, ...]
    network_times: tuple[Tensor, ...]
    order: None = None

    @property
    def memory(self) -> int:
        return self.solver.memory

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        there = self.times[state.step + 1]
        return self.solver.step_between(field, state, there, self.network_times[state.step])
