"""What one step could have been: the exact continuation from a solver's own state, and the floor under combinations of
slopes (SpanLift, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core.analysis.span import Split, project
from core.operators.corrected import Corrected
from core.operators.scaling import chart_of, move
from core.state import Solver, VelocityField, integrate, plan, trajectory

Flow = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x (B, *space), t (), t_next ()) -> the exact state at t_next, e.g. `MixtureField.flow` or a `Refined` one."""


@dataclass(frozen=True, eq=False)
class Refined:
    """The flow of a field by many small steps: the one-step restriction of a teacher.

    Attributes:
        field: dx/dt.
        solver: takes the small steps, e.g. Heun's method.
        steps: how many of them replace a step.
        rho: they are even in t^(1/rho), so that they shrink towards t = 0 as a Karras grid does; 1 makes them even.
    """

    field: VelocityField
    solver: Solver
    steps: int = 32
    rho: float = 7.0

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        part = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64, device=t.device)
        root = t ** (1 / self.rho)
        grid = (root + part * (t_next ** (1 / self.rho) - root)) ** self.rho
        return integrate(self.field, self.solver, x, torch.cat([t[None], grid[1:-1], t_next[None]])).x


class LocalParts(NamedTuple):
    """One step from a solver's own state, beside the exact continuation from there (SpanLift, equations 6 to 8).

    Attributes:
        step: index of the step.
        target: Delta*, the exact update, (B, *space).
        update: U, the solver's.
        wanted: parts of the target inside and outside the span of the buffered slopes.
        taken: those of the update.
    """

    step: int
    target: Tensor
    update: Tensor
    wanted: Split
    taken: Split


class LocalFloor(NamedTuple):
    """Norms of `LocalParts` over each sample, (B,); with P the projection on the span of the buffered slopes:

    Attributes:
        step: index of the step.
        target: |Delta*|.
        inside: |P U - P Delta*|, what better coefficients could mend.
        floor: |Delta* - P Delta*|, which no combination of these slopes goes below.
        mismatch: |U - Delta*|; for U in the span its square is inside^2 + floor^2, and it is never below the floor.
        shared: |Delta* - S Delta*|, with S Delta* the best combination with the same coefficients for all samples, as a
            learned table of coefficients has them; by least squares over the batch. In the mean square it lies between
            floor and mismatch of a solver in the span.
    """

    step: int
    target: Tensor
    inside: Tensor
    floor: Tensor
    mismatch: Tensor
    shared: Tensor

    def relative(self) -> LocalFloor:
        """All sizes as fractions of |Delta*|."""
        return self.scaled(1 / self.target)

    def scaled(self, factor: float | Tensor) -> LocalFloor:
        """All sizes times a number, or (B,)."""
        return LocalFloor(self.step, *(size * factor for size in self[1:]))


def local_parts(
    field: VelocityField, solver: Solver, x_T: Tensor, grid: Tensor, flow: Flow
) -> Iterator[tuple[LocalParts, list[Tensor]]]:
    """Every step of a solver's rollout beside the exact one from the state it starts from, and the buffered slopes.

    Args:
        field: frozen velocity field.
        solver: any; a `Corrected` one is bound to its condition where it needs one. Its update may leave the span.
        x_T: (B, *space) at grid[0].
        grid: (steps + 1,).
        flow: the exact continuation of a state.
    """
    solver = plan(solver, grid)
    chart = chart_of(solver.solver if isinstance(solver, Corrected) else solver)
    before = None
    for after in trajectory(field, solver, x_T, grid):
        if before is not None:
            carried = move(chart, before.t, after.t).keep * before.x
            target, update = flow(before.x, before.t, after.t) - carried, after.x - carried
            slopes = [chart.slope(evaluation) for evaluation in after.buffer]
            yield LocalParts(before.step, target, update, project(target, slopes), project(update, slopes)), slopes
        before = after


@torch.no_grad()
def local_floors(field: VelocityField, solver: Solver, x_T: Tensor, grid: Tensor, flow: Flow) -> list[LocalFloor]:
    """The sizes of what `local_parts` finds at every step; same arguments."""
    rows = []
    for parts, slopes in local_parts(field, solver, x_T, grid, flow):
        together = project(parts.target.flatten()[None], [slope.flatten()[None] for slope in slopes])
        sizes = (
            parts.target,
            parts.taken.inside - parts.wanted.inside,
            parts.wanted.outside,
            parts.update - parts.target,
            together.outside.view_as(parts.target),
        )
        rows.append(LocalFloor(parts.step, *(part.flatten(1).norm(dim=1) for part in sizes)))
    return rows
