"""What a step can reach and what a correction does: parts inside and outside the span of the buffered slopes, the local
floor of scalar updates, relative magnitudes, orders of convergence (SpanLift, 3.1, 5.3).

An update is a change of x in the chart of a solver: the next state less the state carried along unchanged,
`keep` * x, which is x itself in the time chart. There a scalar update is a combination of the buffered slopes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core.operators.corrected import Corrected
from core.operators.scaling import chart_of, move
from core.state import Solver, VelocityField, integrate, plan, trajectory

SAME = 4
"""Slopes that differ by so many units in the last place are one: their difference is rounding, not a direction."""


class Split(NamedTuple):
    """An update and its parts: update = inside + outside, outside orthogonal to every direction of the span."""

    inside: Tensor
    outside: Tensor
    ratio: Tensor


def project(update: Tensor, directions: Sequence[Tensor]) -> Split:
    """Project an update onto the span of some directions, for each sample by least squares.

    Args:
        update: (B, *space).
        directions: each (B, *space); dependent ones do no harm, also where they are so but for rounding.

    Returns:
        inside and outside of the update's shape, and ratio |outside| / |update| of (B,), 0 where the update is 0.

    Raises:
        ValueError: no direction, one of another shape, values that are not finite.
    """
    _check(update, directions)
    target = update.flatten(1).double()
    basis = torch.stack([direction.flatten(1).double() for direction in directions], dim=-1)
    # columns of length one, so that slopes of very different size count alike in the rank
    length = basis.norm(dim=1, keepdim=True)
    left, singular, _ = torch.linalg.svd(basis / torch.where(length > 0, length, 1), full_matrices=False)
    rounding = max(basis.shape[1:]) * torch.finfo(torch.float64).eps
    kept = singular > singular[:, :1] * max(rounding, *(SAME * torch.finfo(d.dtype).eps for d in directions))
    left = left * kept[:, None]
    inside = torch.einsum("bnk,bmk,bm->bn", left, left, target)
    outside = target - inside
    size = target.norm(dim=1)
    ratio = torch.where(size > 0, outside.norm(dim=1) / torch.where(size > 0, size, 1), 0)
    shape = update.shape
    return Split(inside.view(shape).to(update.dtype), outside.view(shape).to(update.dtype), ratio.to(update.dtype))


def _check(update: Tensor, directions: Sequence[Tensor]) -> None:
    if not directions:
        raise ValueError("expected at least one direction, got none; pass the buffered slopes")
    for name, values in (("update", update), *(("direction", direction) for direction in directions)):
        if values.shape != update.shape:
            raise ValueError(
                f"expected a direction of the update's shape {tuple(update.shape)}, got {tuple(values.shape)}; "
                "pass one a sample"
            )
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"expected a finite {name}, got NaN or infinity; check the network and the step before")


def without_chord(update: Tensor, chord: Tensor) -> Tensor:
    """The part of an update orthogonal to a chord, both (B, *space)."""
    return project(update, [chord]).outside


def relative_magnitude(residual: Tensor, base: Tensor, chord: Tensor) -> Tensor:
    """|residual| / |base| of (B,) after both lost their part along the teacher's chord x_T -> x_0 (SpanLift, figure 4).

    0 where no residual is left, infinite where one is and the base had nothing but its part along the chord.
    """
    left, right = (without_chord(part, chord).flatten(1).norm(dim=1) for part in (residual, base))
    whole = SAME * torch.finfo(base.dtype).eps * base.flatten(1).norm(dim=1)
    return torch.where(left > 0, left / torch.where(right > whole, right, 0), 0)


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


class LocalFloor(NamedTuple):
    """One step from a solver's own state, against the exact continuation from there (SpanLift, equations 6 to 8).

    Norms over each sample, (B,). With Delta* the exact update, U the solver's, P the projection on the span of the
    buffered slopes:

    Attributes:
        step: index of the step.
        target: |Delta*|.
        inside: |P U - P Delta*|, what better coefficients could mend.
        floor: |Delta* - P Delta*|, which no combination of these slopes goes below.
        mismatch: |U - Delta*|; for U in the span its square is inside^2 + floor^2, and it is never below the floor.
    """

    step: int
    target: Tensor
    inside: Tensor
    floor: Tensor
    mismatch: Tensor


@torch.no_grad()
def local_floors(field: VelocityField, solver: Solver, x_T: Tensor, grid: Tensor, flow: Flow) -> list[LocalFloor]:
    """Every step of a solver's rollout against the exact one-step target from the state it starts from.

    Args:
        field: frozen velocity field.
        solver: any; a `Corrected` one is bound to its condition where it needs one. Its update may leave the span.
        x_T: (B, *space) at grid[0].
        grid: (steps + 1,).
        flow: the exact continuation of a state.
    """
    solver = plan(solver, grid)
    chart = chart_of(solver.solver if isinstance(solver, Corrected) else solver)
    rows = []
    before = None
    for after in trajectory(field, solver, x_T, grid):
        if before is not None:
            carried = move(chart, before.t, after.t).keep * before.x
            target, update = flow(before.x, before.t, after.t) - carried, after.x - carried
            slopes = [chart.slope(evaluation) for evaluation in after.buffer]
            wanted, taken = project(target, slopes), project(update, slopes)
            parts = (target, taken.inside - wanted.inside, wanted.outside, update - target)
            rows.append(LocalFloor(before.step, *(part.flatten(1).norm(dim=1) for part in parts)))
        before = after
    return rows


class CorrectionSize(NamedTuple):
    """One step of a corrected rollout: its index, and of each sample (B,) the out-of-span ratio and the magnitude
    relative to the base step."""

    step: int
    out_of_span: Tensor
    magnitude: Tensor


@torch.no_grad()
def correction_sizes(
    field: VelocityField, solver: Corrected, x_T: Tensor, grid: Tensor, endpoint: Tensor, afs: bool = False
) -> list[CorrectionSize]:
    """Diagnose each correction along a solver's own rollout, in the chart of its base.

    Of a SpanLift operator the part g_i h_i R is looked at, not the rescaled base step, which is in the span.

    Args:
        field: frozen velocity field.
        solver: bound to the condition where it needs one.
        x_T: (B, *space) at grid[0].
        grid: (steps + 1,).
        endpoint: the teacher's, (B, *space).
        afs: analytic first step, see `trajectory`.
    """
    planned = plan(solver, grid)
    assert isinstance(planned, Corrected)
    chart = chart_of(planned.solver)
    chord = endpoint - move(chart, grid[0], grid[-1]).keep * x_T
    states = trajectory(field, solver, x_T, grid, afs)
    parts = getattr(solver.residual, "parts", None)
    rows = []
    for state, t_next in zip(states, grid.double()[1:], strict=False):
        proposal = planned.propose(field, state, t_next)
        correction = parts(state, proposal)[1] if parts is not None else planned.residual(state, proposal)
        base = proposal.x - move(chart, state.t, proposal.t).keep * state.x  # of learned times it says its own
        outside = project(correction, [chart.slope(evaluation) for evaluation in proposal.buffer]).ratio
        rows.append(CorrectionSize(state.step, outside, relative_magnitude(correction, base, chord)))
    return rows


class StepAnalysis(NamedTuple):
    """One step of a corrected rollout: its index, out-of-span ratio and relative magnitude, each mean over samples."""

    step: int
    out_of_span: float
    magnitude: float


def analyse_corrections(
    field: VelocityField, solver: Corrected, x_T: Tensor, grid: Tensor, endpoint: Tensor, afs: bool = False
) -> list[StepAnalysis]:
    """Means over the samples of what `correction_sizes` finds; same arguments."""
    sizes = correction_sizes(field, solver, x_T, grid, endpoint, afs)
    return [StepAnalysis(row.step, row.out_of_span.mean().item(), row.magnitude.mean().item()) for row in sizes]


def measured_order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Order of convergence: least-squares slope of log(error) against log(1 / steps).

    Raises:
        ValueError: fewer than two points, or an error that is not positive.
    """
    if len(steps) != len(errors) or len(steps) < 2:
        raise ValueError(f"expected as many errors as steps, two or more, got {len(errors)} and {len(steps)}; add some")
    if min(errors) <= 0:
        raise ValueError(f"expected positive errors, got {min(errors)}; use fewer steps, these are exact")
    h = [-math.log(count) for count in steps]
    e = [math.log(error) for error in errors]
    mean_h, mean_e = sum(h) / len(h), sum(e) / len(e)
    return sum((a - mean_h) * (b - mean_e) for a, b in zip(h, e, strict=True)) / sum((a - mean_h) ** 2 for a in h)


class ErrorPoint(NamedTuple):
    """Evaluations of the field per sample, and the root mean square error of the endpoint."""

    nfe: int
    error: float


def error_against_nfe(
    field: VelocityField,
    solver: Solver,
    x_T: Tensor,
    grids: Iterable[Tensor],
    reference: Tensor,
) -> list[ErrorPoint]:
    """Endpoint error of a solver against a reference endpoint, a point for each grid."""
    points = []
    with torch.no_grad():
        for grid in grids:
            state = integrate(field, solver, x_T, grid)
            points.append(ErrorPoint(state.nfe, (state.x - reference).square().mean().sqrt().item()))
    return points
