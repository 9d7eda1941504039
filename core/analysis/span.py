"""Updates against the span of the buffered slopes: parts inside and outside, relative magnitudes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

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
    inside = (left @ (left.mT @ target[..., None]))[..., 0]  # never the (n, n) matrix of the projection
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
