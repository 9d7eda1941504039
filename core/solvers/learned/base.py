"""What all learned solvers share: a frozen configuration, the grid they are for, and a place for their card."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor, nn

from core.state import Solver, State, VelocityField

if TYPE_CHECKING:
    from core.checkpoints import Card

GRID_TOLERANCE = 1e-6
"""Relative: times that went through single precision still count as the same."""


class LearnedConfig(Protocol):
    """A frozen dataclass of plain values, tensors, schedules and handcrafted solvers: all but the learned numbers."""

    @property
    def grid(self) -> Tensor:
        """(steps + 1,) descending float64 times that the solver is for."""
        ...


class Learned(nn.Module, ABC):
    """A solver with parameters, made for one grid; untrained it is the base solver of its configuration.

    Attributes:
        kind: name in `core.SOLVERS`, and in checkpoints.
        config: what it was built from.
        card: what a checkpoint says of it; set by `core.load`.
    """

    kind: ClassVar[str]
    order: int | None = None
    card: Card | None = None

    def __init__(self, config: LearnedConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def memory(self) -> int:
        return 1

    def plan(self, grid: Tensor) -> Solver:
        """This solver; raises ValueError for another grid than that of its training."""
        check_grid(self.kind, self.config.grid, grid)
        return self

    @abstractmethod
    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        """The next state; `t_next` is the nominal time, a solver of learned times says its own in the state."""


def check_grid(kind: str, trained: Tensor, grid: Tensor) -> None:
    """Raise ValueError unless `grid` is the grid that a solver was trained for."""
    if len(trained) != len(grid):
        raise ValueError(
            f"expected a grid of {len(trained) - 1} steps for this {kind!r}, got {len(grid) - 1}; sample on the grid "
            "of its training (solver.card.grid) or train one for this number of steps"
        )
    there = trained.to(grid)
    if not torch.allclose(there, grid, rtol=GRID_TOLERANCE, atol=GRID_TOLERANCE * float(there[0])):
        wrong = int((there - grid).abs().argmax())
        raise ValueError(
            f"expected the grid that this {kind!r} was trained for, with time {float(there[wrong]):g} at node {wrong}, "
            f"got {float(grid[wrong]):g}; sample on solver.card.grid"
        )
