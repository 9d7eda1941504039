"""Orders of convergence, and error against evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.state import Solver, VelocityField, integrate


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
