"""UNet over context and noisy latent frames (PreDiff, Gao et al. 2023, section 3.1 and appendix).

Context and noisy frames stand one after the other on the time axis, with an indicator channel that is one where a frame
was observed. Every level alternates time-embedded residual blocks with axial cuboid attention; the way up adds the
features of the way down. Module names are those of the published PreDiff weights.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from apps.nowcast.model.configs import UNetConfig
from apps.nowcast.model.cuboid import CuboidBlock, FrameUpsample, PatchMerge, PositionEmbedding
from apps.nowcast.model.published import UNetOptions, unet_config
from apps.nowcast.model.residual import ResidualBlock, TimeEmbedding


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], remedy: str) -> None:
    """Raises ValueError unless `tensor` has the expected shape."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"expected {name} of shape {expected}, got {tuple(tensor.shape)}; {remedy}")


class CuboidTransformerUNet(nn.Module):
    """Predicts noise or v of latent target frames from the noisy frames, the diffusion time and the context frames."""

    def __init__(self, config: UNetConfig | None = None, **published: Unpack[UNetOptions]) -> None:
        """Sizes of our `config`, or by the names of PreDiff's configuration, see `apps.nowcast.model.published`.

        Raises:
            TypeError, ValueError: both, an unknown option, or one that this network cannot follow.
        """
        super().__init__()
        if config is not None and published:
            raise TypeError(f"expected a config or PreDiff's options, got both: {', '.join(published)}")
        config = unet_config(published) if config is None else config
        self.config = config
        widths, shapes = config.level_channels, config.level_shapes
        dropout, groups = config.dropout, config.norm_num_groups
        embedding = config.time_embed_multiplier * config.base_units
        latent_channels = config.target_shape[-1]

        def attention_levels() -> nn.ModuleList:
            return nn.ModuleList(
                nn.ModuleList(CuboidBlock(width, config.num_heads, shape, dropout) for _ in range(depth))
                for width, shape, depth in zip(widths, shapes, config.depth, strict=True)
            )

        def time_blocks() -> nn.ModuleList:
            return nn.ModuleList(
                ResidualBlock(width, width, groups, config.time_embed_dropout, embedding) for width in widths
            )

        self.first_proj = ResidualBlock(latent_channels + 1, config.base_units, groups, dropout)
        self.pos_embed = PositionEmbedding(config.base_units, shapes[0])
        self.time_embed = TimeEmbedding(config.base_units, embedding)
        self.downsample_layers = nn.ModuleList(PatchMerge(width) for width in widths[:-1])
        self.upsample_layers = nn.ModuleList(FrameUpsample(width) for width in widths[1:])
        self.down_self_blocks = attention_levels()
        self.up_self_blocks = attention_levels()
        self.down_time_embed_blocks = time_blocks()
        self.up_time_embed_blocks = time_blocks()
        self.final_proj = nn.Linear(config.base_units, latent_channels)

    def assemble(self, x: Tensor, cond: Tensor) -> Tensor:
        """(B, context + target, H, W, C + 1): frames in time order; the last channel is 1 on the context, 0 on x."""
        frames = torch.cat([cond, x], dim=1)
        observed = torch.zeros_like(frames[..., :1])
        observed[:, : cond.shape[1]] = 1.0
        return torch.cat([frames, observed], dim=-1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Noise in `x`, with its shape.

        Args:
            x: noisy target latents, (B, *config.target_shape).
            t: network time in 0 .. 999, (B,), integer or fractional.
            cond: context latents, (B, *config.context_shape).

        Raises:
            ValueError: any of the three has another shape.
        """
        batch = x.shape[0] if x.ndim else 0
        remedy = "latents are channels-last, (batch, frames, height, width, channels)"
        check_shape("x", x, (batch, *self.config.target_shape), remedy)
        check_shape("cond", cond, (batch, *self.config.context_shape), remedy)
        check_shape("t", t, (batch,), "give one diffusion time per sample")

        h = self.pos_embed(self.first_proj(self.assemble(x, cond)))
        embedding = self.time_embed(t)
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down_self_blocks):
            if level:
                h = self.downsample_layers[level - 1](h)
            h = self._level(h, embedding, self.down_time_embed_blocks[level], blocks)
            skips.append(h)
        for level in reversed(range(len(skips))):
            if level < len(skips) - 1:
                h = self.upsample_layers[level](h) + skips[level]
            h = self._level(h, embedding, self.up_time_embed_blocks[level], self.up_self_blocks[level])
        return self.final_proj(h[:, self.config.context_shape[0] :])

    @staticmethod
    def _level(h: Tensor, embedding: Tensor, time_block: nn.Module, blocks: nn.Module) -> Tensor:
        """All blocks of one level, each after the same time block: its weights serve the whole level."""
        for block in blocks.children():
            h = block(time_block(h, embedding))
        return h
