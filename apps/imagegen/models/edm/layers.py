"""What EDM's networks are made of. Weights are cast to the type of what they meet, which costs nothing where they are
of that type already; names of parameters are those of the published checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Resampling = Literal["up", "down"]
GROUPS, LEAST_PER_GROUP = 32, 4


@dataclass(frozen=True, slots=True)
class Initialisation:
    """How weights begin.

    Attributes:
        xavier: uniform by Glorot & Bengio 2010 with biases of zero, scaled by the gains below; else torch's own, which
            is uniform in +-1 / sqrt(fan in), with gains alike.
        residual: gain of what a branch ends with; near zero, so that a block begins as the identity.
        attention: gain of queries, keys and values.
    """

    xavier: bool
    residual: float
    attention: float = 1.0

    @torch.no_grad()
    def __call__(self, layer: nn.Linear | Convolution, gain: float = 1.0) -> None:
        """Set weight and bias of a layer that torch has initialised; see `drawn` for the "meta" device."""
        if layer.weight.is_meta:
            return
        if self.xavier:
            nn.init.xavier_uniform_(layer.weight, gain)
            gain = 0.0
        else:
            layer.weight.mul_(gain)
        if layer.bias is not None:
            layer.bias.mul_(gain)


def drawn(values: Tensor, scale: float = 1.0) -> Tensor:
    """The tensor filled with normal numbers of this standard deviation.

    On the "meta" device there is nothing to fill, and torch would load its compiler for it, which takes seconds.
    """
    with torch.no_grad():
        return values if values.is_meta else values.normal_(std=scale)


def separable_filter(taps: Sequence[int]) -> Tensor:
    """(1, 1, n, n): the outer product of the taps with themselves, of sum 1; in Python for the reason of `drawn`."""
    total = sum(taps) ** 2
    return torch.tensor([[[[a * b / total for b in taps] for a in taps]]])


class Convolution(nn.Conv2d):
    """A convolution that keeps the size, with a halving or doubling before it.

    Args:
        resample: "down" halves and "up" doubles height and width by the filter of `taps`; None leaves them.
        convolve_first: the halving comes after the convolution, and the borders of both are filled with zeros once.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        resample: Resampling | None = None,
        taps: Sequence[int] = (1, 1),
        convolve_first: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.resample: Resampling | None = resample
        self.convolve_first = convolve_first
        if resample is not None:
            self.register_buffer("resample_filter", separable_filter(taps))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        weight = self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.convolve_first:
            border = self.kernel_size[0] // 2 + margin(self.resample_filter)
            return resampled(F.conv2d(x, weight, bias, padding=border), self.resample_filter, "down", 0)
        if self.resample is not None:
            x = resampled(x, self.resample_filter, self.resample, margin(self.resample_filter))
        return F.conv2d(x, weight, bias, padding=self.padding)


class Resample(nn.Module):
    """Halves or doubles height and width, and nothing else."""

    resample_filter: Tensor

    def __init__(self, resample: Resampling, taps: Sequence[int]) -> None:
        super().__init__()
        self.resample: Resampling = resample
        self.register_buffer("resample_filter", separable_filter(taps))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        return resampled(x, self.resample_filter, self.resample, margin(self.resample_filter))


def margin(kernel: Tensor) -> int:
    """Zeros at each border that make halving and doubling exact for this filter."""
    return (kernel.shape[-1] - 1) // 2


def resampled(x: Tensor, kernel: Tensor, direction: Resampling, border: int) -> Tensor:
    """Every channel by itself: filtered and every second value taken, or zeros put between values and filtered."""
    channels = x.shape[1]
    kernel = kernel.to(x.dtype).expand(channels, -1, -1, -1)
    if direction == "down":
        return F.conv2d(x, kernel, stride=2, padding=border, groups=channels)
    return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=border, groups=channels)


class GroupNorm(nn.GroupNorm):
    """Groups of at least 4 channels, at most 32 of them.

    Raises:
        ValueError: so many groups do not divide the channels.
    """

    def __init__(self, channels: int, eps: float) -> None:
        groups = min(GROUPS, max(1, channels // LEAST_PER_GROUP))
        if channels % groups:
            raise ValueError(f"expected channels that {groups} groups divide, got {channels}; change model_channels")
        super().__init__(groups, channels, eps)

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        return F.group_norm(input, self.num_groups, weight, bias, self.eps)


class PositionalEmbedding(nn.Module):
    """(B,) noise levels -> (B, channels) cosines and sines of frequencies from 1 down to 1e-4.

    Args:
        endpoint: whether the last frequency is 1e-4 itself.
        sine_first: the order of the halves.
    """

    def __init__(self, channels: int, *, endpoint: bool, sine_first: bool) -> None:
        super().__init__()
        self.channels, self.endpoint, self.sine_first = channels, endpoint, sine_first

    def forward(self, level: Tensor) -> Tensor:
        half = self.channels // 2
        exponents = torch.arange(half, dtype=torch.float32, device=level.device) / (half - self.endpoint)
        return waves(level, (1 / 10000) ** exponents, self.sine_first)


class FourierEmbedding(nn.Module):
    """(B,) noise levels -> (B, channels) sines and cosines of random frequencies (Tancik et al. 2020)."""

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", drawn(torch.empty(channels // 2), scale))

    def forward(self, level: Tensor) -> Tensor:
        return waves(level, 2 * math.pi * self.freqs, sine_first=True)


def waves(level: Tensor, frequencies: Tensor, sine_first: bool) -> Tensor:
    angle = level[:, None] * frequencies.to(level.dtype)
    halves = (angle.sin(), angle.cos()) if sine_first else (angle.cos(), angle.sin())
    return torch.cat(halves, dim=1)
