"""What a correction does: its part outside the span of the buffered slopes, its size, orders of convergence
(SpanLift, 3.1, 5.3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.operators.corrected import Corrected
from core.operators.scaling import chart_of, move
from core.state import Solver, VelocityField, integrate, trajectory


class Split(NamedTuple):
    """An update and its parts: update = inside + outside, outside orthogonal to every direction of the span."""

    inside: Tensor
    outside: Tensor
    ratio: Tensor


def project(update: Tensor, directions: Sequence[Tensor]) -> Split:
    """Project an update onto the span of some directions, for each sample by least squares.

    Args:
        update: (B, *space).
        directions: each (B, *space); dependent ones do no harm.

    Returns:
        inside and outside of the update's shape, and ratio |outside| / |update| of (B,), 0 where the update is 0.

    Raises:
        ValueError: no direction.
    """
    if not directions:
        raise ValueError("expected at least one direction, got none; pass the buffered slopes")
    target = update.flatten(1).double()
    basis = torch.stack([direction.flatten(1).double() for direction in directions], dim=-1)
    # columns of length one, so that slopes of very different size count alike in the rank
    length = basis.norm(dim=1, keepdim=True)
    left, singular, _ = torch.linalg.svd(basis / torch.where(length > 0, length, 1), full_matrices=False)
    kept = singular > singular[:, :1] * max(basis.shape[1:]) * torch.finfo(torch.float64).eps
    left = left * kept[:, None]
    inside = torch.einsum("bnk,bmk,bm->bn", left, left, target)
    outside = target - inside
    size = target.norm(dim=1)
    ratio = torch.where(size > 0, outside.norm(dim=1) / torch.where(size > 0, size, 1), 0)
    shape = update.shape
    return Split(inside.view(shape).to(update.dtype), outside.view(shape).to(update.dtype), ratio.to(update.dtype))


def without_chord(update: Tensor, chord: Tensor) -> Tensor:
    """The part of an update orthogonal to a chord, both (B, *space)."""
    return project(update, [chord]).outside


def relative_magnitude(residual: Tensor, base: Tensor, chord: Tensor) -> Tensor:
    """|residual| / |base| of (B,) after both lost their part along the teacher's chord x_T -> x_0 (SpanLift, figure
    4)."""
    numerator = without_chord(residual, chord).flatten(1).norm(dim=1)
    return numerator / without_chord(base, chord).flatten(1).norm(dim=1)


class StepAnalysis(NamedTuple):
    """One step of a corrected rollout: its index, out-of-span ratio and relative magnitude, each mean over samples."""

    step: int
    out_of_span: float
    magnitude: float


@torch.no_grad()
def analyse_corrections(
    field: VelocityField, solver: Corrected, x_T: Tensor, grid: Tensor, endpoint: Tensor
) -> list[StepAnalysis]:
    """Diagnose each correction along a solver's own rollout, in the chart of its base.

    Of a SpanLift operator the part g_i h_i R is looked at, not the rescaled base step, which is in the span.

    Args:
        field: frozen velocity field.
        solver: bound to the condition where it needs one.
        x_T: (B, *space) at grid[0].
        grid: (steps + 1,).
        endpoint: the teacher's, (B, *space).
    """
    chart = chart_of(solver.solver)
    chord = endpoint - move(chart, grid[0], grid[-1]).keep * x_T
    states = trajectory(field, solver, x_T, grid)
    parts = getattr(solver.residual, "parts", None)
    rows = []
    for state, t_next in zip(states, grid.double()[1:], strict=False):
        proposal = solver.propose(field, state, t_next)
        correction = parts(state, proposal)[1] if parts is not None else solver.residual(state, proposal)
        base = proposal.x - move(chart, state.t, t_next).keep * state.x
        outside = project(correction, [chart.slope(evaluation) for evaluation in proposal.buffer]).ratio
        size = relative_magnitude(correction, base, chord)
        rows.append(StepAnalysis(state.step, outside.mean().item(), size.mean().item()))
    return rows


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
