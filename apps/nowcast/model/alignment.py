"""Network that reads the mean intensity of the coming frames off their noisy latents (PreDiff, Gao et al. 2023, section
3.3, knowledge alignment).

The way down of the UNet, told the diffusion time but no context, and per frame one attention pool over the cells of the
coarsest level. Its gradient in the latents pulls a sample towards an intensity that is anticipated. Module names are
those of the published PreDiff weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apps.nowcast.model.configs import check_levels
from apps.nowcast.model.cuboid import CuboidBlock, PatchMerge, PositionEmbedding
from apps.nowcast.model.residual import ResidualBlock, TimeEmbedding, group_norm
from apps.nowcast.model.unet import check_shape


@dataclass(frozen=True, slots=True)
class AlignmentConfig:
    """Size of the alignment network; the words mean what they mean in `UNetConfig`.

    Raises:
        ValueError: see `check_levels`.
    """

    target_shape: tuple[int, int, int, int] = (6, 16, 16, 64)
    base_units: int = 128
    depth: tuple[int, ...] = (1, 1)
    num_heads: int = 4
    dropout: float = 0.1
    time_embed_multiplier: int = 4
    norm_num_groups: int = 32
    time_embed_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_levels(self.target_shape, self.depth, self.base_units, self.num_heads)

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, finest first."""
        return tuple(self.base_units * 2**level for level in range(len(self.depth)))

    @property
    def level_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(frames, height, width) of every level, finest first."""
        frames, height, width, _ = self.target_shape
        return tuple((frames, height >> level, width >> level) for level in range(len(self.depth)))

    @classmethod
    def mini(cls) -> AlignmentConfig:
        """6 frames of 16 x 16 x 16 latents, without dropout: beside `UNetConfig.mini`."""
        return cls(target_shape=(6, 16, 16, 16), base_units=32, dropout=0.0, norm_num_groups=8)

    @classmethod
    def prediff(cls) -> AlignmentConfig:
        """PreDiff's SEVIR-LR network: 6 frames of 16 x 16 x 64 latents, 8.9 M parameters."""
        return cls()


class AttentionPool(nn.Module):
    """(N, C, h, w) to (N, out): what a token at the mean of the cells gathers from them by attention.

    As CLIP pools images (Radford et al. 2021, arXiv 2103.00020): h * w cells behind their mean, learned positions, one
    layer of multi-head attention of which the mean's answer is kept.
    """

    def __init__(self, channels: int, cells: int, heads: int, out: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(channels, cells + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)
        tokens = torch.cat([tokens.mean(-1, keepdim=True), tokens], dim=-1) + self.positional_embedding
        # (N, 3 C, L) -> queries, keys, values, each (N, heads, C / heads, L)
        q, k, v = self.qkv_proj(tokens).unflatten(1, (3, self.heads, -1)).unbind(1)
        scores = q[..., :1].transpose(-1, -2) @ k * q.shape[2] ** -0.5  # of the mean's query alone
        # Softmax in float32 whatever the dtype, as in the weights' own code.
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(scores.dtype)
        attended = (v @ weights.transpose(-1, -2)).flatten(1, 2)
        return self.c_proj(attended)[..., 0]


class AlignmentNetwork(nn.Module):
    """Mean intensity of every target frame, in [0, 1], from its noisy latents and the diffusion time."""

    def __init__(self, config: AlignmentConfig) -> None:
        super().__init__()
        self.config = config
        widths, shapes = config.level_channels, config.level_shapes
        dropout, groups = config.dropout, config.norm_num_groups
        embedding = config.time_embed_multiplier * config.base_units
        self.first_proj = ResidualBlock(config.target_shape[-1], config.base_units, groups, dropout)
        self.pos_embed = PositionEmbedding(config.base_units, shapes[0])
        self.time_embed = TimeEmbedding(config.base_units, embedding)
        self.downsample_layers = nn.ModuleList(PatchMerge(width) for width in widths[:-1])
        self.down_self_blocks = nn.ModuleList(
            nn.ModuleList(CuboidBlock(width, config.num_heads, shape, dropout) for _ in range(depth))
            for width, shape, depth in zip(widths, shapes, config.depth, strict=True)
        )
        self.down_time_embed_blocks = nn.ModuleList(
            ResidualBlock(width, width, groups, config.time_embed_dropout, embedding) for width in widths
        )
        cells = shapes[-1][1] * shapes[-1][2]
        pool = AttentionPool(widths[-1], cells, config.num_heads, 1)
        self.out = nn.Sequential(group_norm(widths[-1], groups), nn.SiLU(), pool)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Mean intensities (B, T, 1).

        Args:
            x: noisy target latents, (B, *config.target_shape).
            t: network time in 0 .. 999, (B,), integer or fractional.

        Raises:
            ValueError: either has another shape.
        """
        batch = x.shape[0] if x.ndim else 0
        remedy = "latents are channels-last, (batch, frames, height, width, channels)"
        check_shape("x", x, (batch, *self.config.target_shape), remedy)
        check_shape("t", t, (batch,), "give one diffusion time per sample")
        h = self.pos_embed(self.first_proj(x))
        embedding = self.time_embed(t)
        for level, blocks in enumerate(self.down_self_blocks):
            if level:
                h = self.downsample_layers[level - 1](h)
            for block in blocks.children():
                h = block(self.down_time_embed_blocks[level](h, embedding))
        frames = h.flatten(0, 1).movedim(-1, 1)  # every frame is read by itself
        return self.out(frames).unflatten(0, h.shape[:2])
