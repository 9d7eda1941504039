"""Exact mixture fields that solvers are compared on, and mixtures read from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core.fields import MixtureField
from core.schedules import Schedule
from data_tools.cli import UserError

F64 = torch.float64


def waves(schedule: Schedule | None = None) -> MixtureField:
    """Four smooth images of two channels, 8 x 8: what a spatial operator is for."""
    k = torch.arange(4, dtype=F64)[:, None, None, None]
    channel = torch.arange(2, dtype=F64)[:, None, None]
    row, column = torch.arange(8, dtype=F64)[:, None], torch.arange(8, dtype=F64)
    means = 0.8 * torch.sin(0.3 * (k + 1) * row + channel) * torch.cos(0.2 * (k + 1) * column - k / 2)
    return MixtureField(means, [1.0, 2.0, 3.0, 4.0], [0.15, 0.2, 0.25, 0.3], schedule)


def ring(schedule: Schedule | None = None) -> MixtureField:
    """Six points on a circle, two channels of one pixel: no neighbours, but times at which a sample must choose."""
    angle = 2 * math.pi * torch.arange(6, dtype=F64) / 6
    means = 0.9 * torch.stack([angle.cos(), angle.sin()], dim=1)[:, :, None, None]
    return MixtureField(means, [1.0, 1.5, 2.0, 2.5, 3.0, 3.5], [0.1, 0.12, 0.14, 0.16, 0.18, 0.2], schedule)


FIELDS: Mapping[str, Callable[[Schedule | None], MixtureField]] = MappingProxyType({"waves": waves, "ring": ring})
"""The built-in mixtures."""


def read_mixture(path: str | Path, schedule: Schedule | None = None) -> MixtureField:
    """A mixture from a safetensors file of `means` (K, *space), `weights` (K,) and `stds` (K,).

    Raises:
        UserError: no such file, or others in it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"expected a file of a mixture, got none at {path}; correct the path")
    try:
        tensors: dict[str, Tensor] = load_file(path)
        means, weights, stds = (tensors[name].double() for name in ("means", "weights", "stds"))
        return MixtureField(means, weights, stds, schedule)
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"expected means, weights and stds of a mixture in {path}, got another file: {error}"
        ) from error
