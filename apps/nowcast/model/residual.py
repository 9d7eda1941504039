"""Three-dimensional residual blocks of the UNet and the embedding of diffusion time that enters them.

Everything runs on channels-last tensors (B, T, H, W, C). Seen as (B, C, T, H, W) they are already in the memory format
`channels_last_3d`, so that convolution and attention alternate without a copy between them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """`groups` groups where they divide the channels, else one group per channel."""
    return nn.GroupNorm(groups if channels % groups == 0 else channels, channels)


def sinusoids(t: Tensor, width: int) -> Tensor:
    """[cos | sin] of t times 10000^(-k / half), k = 0 .. half - 1: (B,) to (B, width), in float32 for every input."""
    half = width // 2
    ranks = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(10_000.0) * ranks / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Diffusion time (B,), whole or fractional, to (B, width): sinusoids through a two-layer network."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.layer = nn.Sequential(nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        dtype = next(self.layer.parameters()).dtype
        return self.layer(sinusoids(t, self.channels).to(dtype))


class ResidualBlock(nn.Module):
    """Two normalised 3 x 3 x 3 convolutions around an optional shift by the time embedding, plus the input.

    `embedding` is the width of the time embedding; None builds the block without one.
    """

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, dropout: float, embedding: int | None = None
    ) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            group_norm(in_channels, groups), nn.SiLU(), nn.Conv3d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = None if embedding is None else nn.Sequential(nn.SiLU(), nn.Linear(embedding, out_channels))
        self.out_layers = nn.Sequential(
            group_norm(out_channels, groups),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv3d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = nn.Conv3d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        x = x.movedim(-1, 1)
        h = self.in_layers(x)
        if self.emb_layers is not None:
            h = h + self.emb_layers(embedding)[:, :, None, None, None]
        h = self.out_layers(h)
        h = h + (x if self.skip_connection is None else self.skip_connection(x))
        return h.movedim(1, -1)
