"""What a correction does, step by step: outside the span or not, how large, towards what (SpanLift, section 5.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from core.analysis.local import Flow
from core.analysis.span import project, relative_magnitude
from core.operators.corrected import Corrected
from core.operators.scaling import chart_of, move
from core.state import VelocityField, plan, trajectory


class CorrectionSize(NamedTuple):
    """One step of a corrected rollout: its index, and of each sample (B,) the out-of-span ratio and the magnitude
    relative to the base step; where the exact flow is known, also the cosine between the parts of the correction and of
    the exact update outside the span."""

    step: int
    out_of_span: Tensor
    magnitude: Tensor
    aim: Tensor | None = None


@torch.no_grad()
def correction_sizes(
    field: VelocityField,
    solver: Corrected,
    x_T: Tensor,
    grid: Tensor,
    endpoint: Tensor,
    afs: bool = False,
    flow: Flow | None = None,
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
        flow: the exact continuation of a state, for `aim`.
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
        carried = move(chart, state.t, proposal.t).keep * state.x  # of learned times the proposal says its own
        slopes = [chart.slope(evaluation) for evaluation in proposal.buffer]
        outside = project(correction, slopes)
        size = relative_magnitude(correction, proposal.x - carried, chord)
        aim = None
        if flow is not None:
            wanted = project(flow(state.x, state.t, proposal.t) - carried, slopes)
            aim = torch.cosine_similarity(outside.outside.flatten(1), wanted.outside.flatten(1))
        rows.append(CorrectionSize(state.step, outside.ratio, size, aim))
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
