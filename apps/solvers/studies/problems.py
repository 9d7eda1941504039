"""A field with noise to train and to measure on, and the endpoints that rollouts of many steps take it to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apps.solvers.cells import TEACHER_STEPS
from apps.solvers.methods import SIGMA_MAX, SIGMA_MIN
from core.grids import build_grid
from core.path_supervision import refined
from core.solvers import build_solver
from core.state import VelocityField, integrate, trajectory
from core.supervision import Example

PAIRS = 1024
PATH_SUBSTEPS = 5
"""Steps of the teacher between two nodes of the student under path supervision (DyWeight, appendix C)."""


@dataclass(frozen=True)
class Rollout:
    """A handcrafted solver with many steps: a teacher, or what counts as exact.

    Attributes:
        solver: name in `core.SOLVERS`.
        steps: of a Karras grid; a solver of several evaluations a step takes them in each.
        order: see `core.build_solver`.
    """

    solver: str = "ipndm"
    steps: int = 35
    order: int | None = 4

    @property
    def label(self) -> str:
        return f"{self.solver} ({self.steps})"

    @torch.no_grad()
    def endpoints(self, velocity: VelocityField, x_T: Tensor, ends: tuple[float, float]) -> Tensor:
        """Where it takes x_T (B, *space) from the first of the ends to the second."""
        grid = build_grid("karras", self.steps, *ends)
        return integrate(velocity, build_solver(self.solver, order=self.order), x_T, grid).x


EXACT = Rollout("rk4", TEACHER_STEPS, None)


class Problem:
    """A field with noise to train on and noise to measure on: a `Task`.

    Args:
        velocity: in EDM's clock, with an analytic first step.
        shape: (C, *space) of a state.
        held_out: number of states that errors are measured on.
        reference: what counts as their exact endpoints.
        sigma_max, sigma_min: ends of all grids.
        seed: of the held-out noise.
        dtype: of the states.
    """

    def __init__(
        self,
        velocity: VelocityField,
        shape: Sequence[int],
        held_out: int = 256,
        reference: Rollout = EXACT,
        sigma_max: float = SIGMA_MAX,
        sigma_min: float = SIGMA_MIN,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.field, self.shape, self.dtype = velocity, tuple(shape), dtype
        self.ends = sigma_max, sigma_min
        self._kept: dict[Any, Tensor] = {}
        noise = self.noise(held_out, 2**31 + seed)
        self.held_out = Example(noise, None, reference.endpoints(velocity, noise, self.ends))

    def noise(self, count: int, seed: int) -> Tensor:
        """x_T (count, C, *space)."""
        generator = torch.Generator().manual_seed(seed)
        unit = torch.randn(count, *self.shape, generator=generator, dtype=torch.float64)
        return (self.ends[0] * unit).to(self.dtype)

    @property
    def pool(self) -> Example:
        """Pairs of a usual teacher."""
        return self.pairs(PAIRS, 0, Rollout())

    def pairs(self, count: int, seed: int, teacher: Rollout, nodes: Tensor | None = None) -> Example:
        """Pairs of noise and a teacher's endpoint, or its states (count, steps, C, *space) at all `nodes` but the
        first; kept for the next call.

        With nodes the teacher's grid has `PATH_SUBSTEPS` steps in each of their intervals.
        """
        key = count, seed, teacher, None if nodes is None else tuple(nodes.tolist())
        noise = self.noise(count, seed + 1)
        if key not in self._kept:
            if nodes is None:
                self._kept[key] = teacher.endpoints(self.field, noise, self.ends)
            else:
                self._kept[key] = self._path(noise, teacher, nodes)
        return Example(noise, None, self._kept[key])

    @torch.no_grad()
    def _path(self, x_T: Tensor, teacher: Rollout, nodes: Tensor) -> Tensor:
        solver = build_solver(teacher.solver, order=teacher.order)
        states = list(trajectory(self.field, solver, x_T, refined(nodes, PATH_SUBSTEPS - 1)))
        return torch.stack([state.x for state in states[PATH_SUBSTEPS::PATH_SUBSTEPS]], dim=1)
