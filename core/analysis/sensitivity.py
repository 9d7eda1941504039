"""How far a field's answer at one position depends on its input at others (SpanLift, section 3.2).

Along a trajectory the slope changes by its own derivative in time and by the Jacobian times the velocity; at position p
the latter is sum_q J_pq v_q. Where J_pq does not vanish off the diagonal, what a step lacks at p can depend on the
velocity at q, which a map of each position alone does not see.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Sensitivity(NamedTuple):
    """Ratios of sums over the positions of the answer that are looked at, for each sample.

    Attributes:
        outside: (radii, B), share of the squared sensitivities sum_q J_pq^2 to positions q outside the window of edge
            2 r + 1 about p, for r = 0, 1, ...; all positions of a smaller window are at hand for a kernel of that edge.
        moved: (radii, B), |part of (J v)_p from outside that window| / |(J v)_p|, both norms over the positions p; 1
            and above where the window alone tells nothing of J v.
    """

    outside: Tensor
    moved: Tensor


def sensitivity(
    answer: Callable[[Tensor], Tensor],
    x: Tensor,
    velocity: Tensor,
    radii: int = 4,
    positions: int = 8,
    seed: int = 0,
) -> Sensitivity:
    """Rows of the Jacobian of an answer at random positions, one backward pass for all.

    Args:
        answer: x (B, C, *space) -> (B, C, *space), samples apart from one another: a denoiser at a fixed time. Of the
            velocity itself the part that is a multiple of x, which is in the span anyway, would hide the rest.
        x: (B, C, *space).
        velocity: of the state, the same shape.
        radii: number of windows.
        positions: how many rows for each sample.
        seed: of the positions and channels that are looked at.

    Raises:
        ValueError: no window or no position.
    """
    if radii < 1 or positions < 1:
        raise ValueError(f"expected radii and positions of at least 1, got {radii} and {positions}; ask for some")
    batch, channels, *space = x.shape
    size = math.prod(space)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(channels * size, (batch, positions), generator=generator)
    rows = _rows(answer, x, chosen).view(batch, positions, channels, size)
    distance = _distance(space)[chosen % size]  # (B, positions, size)
    through = rows * velocity.detach().flatten(2).double().cpu()[:, None]
    outside, moved = [], []
    for radius in range(radii):
        far = (distance > radius).double()[:, :, None]
        outside.append((rows.square() * far).sum((1, 2, 3)) / rows.square().sum((1, 2, 3)))
        moved.append((through * far).sum((2, 3)).norm(dim=1) / through.sum((2, 3)).norm(dim=1))
    return Sensitivity(torch.stack(outside), torch.stack(moved))


def _rows(answer: Callable[[Tensor], Tensor], x: Tensor, chosen: Tensor) -> Tensor:
    """d answer[chosen] / dx, float64 (B * positions, C, *space) on the CPU."""
    repeated = x.detach().repeat_interleave(chosen.shape[1], 0).requires_grad_()
    with torch.enable_grad():
        answered = answer(repeated).flatten(1)
        total = answered.gather(1, chosen.to(x.device).view(-1, 1)).sum()
    (gradient,) = torch.autograd.grad(total, repeated)
    return gradient.double().cpu()


def _distance(space: list[int]) -> Tensor:
    """Largest difference of coordinates between positions, (size, size)."""
    axes = torch.meshgrid(*(torch.arange(n) for n in space), indexing="ij")
    place = torch.stack(axes, -1).flatten(0, -2)
    return (place[:, None] - place).abs().amax(-1)
