"""Diffusion times that stages on latents draw, and the noise levels that belong to them."""

from __future__ import annotations

import torch
from torch import Tensor

import core

STEPS = 1000
"""Length of the schedule's table; network times are 0 to 999."""


def stratified(batch: int, source: torch.Generator) -> Tensor:
    """Network times (batch,), uniform over the table and one in each of `batch` equal parts of it: the variance of the
    gradient is lower, its mean the same."""
    strata = (torch.arange(batch) + torch.rand(batch, generator=source)) / batch
    return (strata * STEPS).long().clamp(max=STEPS - 1)


def signal_of(schedule: core.DiscreteVP, steps: Tensor, like: Tensor) -> core.Signal:
    """The signal of integer network times (B,), shaped to multiply a batch `like` (B, ...)."""
    shape = (-1, *(1,) * (like.ndim - 1))
    return core.Signal(*(value.to(like).view(shape) for value in schedule((steps.double() + 1) / STEPS)))
