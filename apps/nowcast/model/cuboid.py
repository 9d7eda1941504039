"""Axial cuboid attention with its feed-forward, and the changes of resolution (Earthformer, Gao et al. 2022).

A cuboid block attends along time, then height, then width: self-attention inside cuboids of shape (T, 1, 1), (1, H, 1)
and (1, 1, W). Tensors are channels-last, (B, T, H, W, C).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AxialAttention(nn.Module):
    """Multi-head self-attention along one axis (0 time, 1 height, 2 width) with a learned bias per relative position.

    Raises:
        ValueError: channels that the heads do not divide.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, length: int, axis: int, dropout: float) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"expected channels divisible by {heads} heads, got {channels}; change one of the two")
        self.heads, self.axis, self.dropout = heads, axis, dropout
        positions = torch.arange(length)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(2 * length - 1, heads))
        self.register_buffer("relative_position_index", positions[:, None] - positions[None, :] + length - 1)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        nn.init.kaiming_normal_(self.qkv.weight, nonlinearity="linear")
        # A zero projection makes the block the identity at first: the network starts as its convolutions alone.
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        # The axis moves before the normalisation, which copies anyway: the copy is of C channels, not of 3 C.
        tokens = self.norm(x.movedim(1 + self.axis, 3))
        # (B, ., ., L, 3 C) -> queries, keys, values, each (B, ., ., heads, L, C / heads)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).movedim(3, -2).unbind(3)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        # Written out: a fused kernel is no faster on rows this short, slower to train through a learned bias, and on
        # GPUs limited to 65535 cuboids, which 256 samples of 16 x 16 exceed.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias
        weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        attended = (weights @ v).transpose(-2, -3).flatten(-2)
        return F.dropout(self.proj(attended), self.dropout, self.training).movedim(3, 1 + self.axis)


class FeedForward(nn.Module):
    """x + W2 gelu(W1 norm(x)), four times as wide inside."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.ffn_1 = nn.Linear(channels, 4 * channels)
        self.ffn_2 = nn.Linear(4 * channels, channels)
        self.layer_norm = nn.LayerNorm(channels)
        nn.init.kaiming_normal_(self.ffn_1.weight, nonlinearity="linear")
        nn.init.zeros_(self.ffn_1.bias)
        nn.init.zeros_(self.ffn_2.weight)
        nn.init.zeros_(self.ffn_2.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(F.gelu(self.ffn_1(self.layer_norm(x))), self.dropout, self.training)
        return x + F.dropout(self.ffn_2(h), self.dropout, self.training)


class CuboidBlock(nn.Module):
    """Attention and feed-forward along time, height and width in turn, on (B, *shape, C)."""

    def __init__(self, channels: int, heads: int, shape: tuple[int, int, int], dropout: float) -> None:
        super().__init__()
        self.ffn_l = nn.ModuleList(FeedForward(channels, dropout) for _ in shape)
        self.attn_l = nn.ModuleList(
            AxialAttention(channels, heads, length, axis, dropout) for axis, length in enumerate(shape)
        )

    def forward(self, x: Tensor) -> Tensor:
        for attention, feed_forward in zip(self.attn_l, self.ffn_l, strict=True):
            x = feed_forward(x + attention(x))
        return x


class PositionEmbedding(nn.Module):
    """Adds one learned vector per frame, per row and per column."""

    def __init__(self, channels: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        frames, height, width = shape
        self.T_embed = nn.Embedding(frames, channels)
        self.H_embed = nn.Embedding(height, channels)
        self.W_embed = nn.Embedding(width, channels)
        for table in (self.T_embed, self.H_embed, self.W_embed):
            nn.init.trunc_normal_(table.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.H_embed.weight[:, None] + self.W_embed.weight[None, :]
        return x + (self.T_embed.weight[:, None, None] + rows)


def merge_patches(x: Tensor) -> Tensor:
    """(B, T, H, W, C) to (B, T, H/2, W/2, 4C): each 2 x 2 patch in raster order, channels innermost."""
    x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, T, H/2, 2, W/2, 2, C)
    return x.transpose(3, 4).flatten(4)


class PatchMerge(nn.Module):
    """Halves height and width and doubles the channels: a normalised linear map of every 2 x 2 patch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)
        nn.init.kaiming_normal_(self.reduction.weight, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(merge_patches(x)))


class FrameUpsample(nn.Module):
    """Doubles height and width and halves the channels: nearest neighbour and a 3 x 3 convolution, frame by frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(0, 1).movedim(-1, 1)  # (B T, C, H, W), channels_last in memory
        frames = self.conv(F.interpolate(frames, scale_factor=2.0, mode="nearest"))
        return frames.movedim(1, -1).unflatten(0, x.shape[:2])
