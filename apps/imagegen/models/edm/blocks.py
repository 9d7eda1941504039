"""The residual block of both networks: two convolutions told the noise level, then perhaps attention over pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apps.imagegen.models.edm.layers import Convolution, GroupNorm, Initialisation, Resample, Resampling


@dataclass(frozen=True, slots=True)
class BlockStyle:
    """What the blocks of one network have in common.

    Attributes:
        embedding: channels of the embedding that tells noise level and class.
        dropout: probability in training.
        eps: of the group norms.
        skip_scale: factor after each sum of a branch and its input; sqrt(1/2) keeps the variance.
        adaptive_scale: the embedding gives a scale and a shift after the norm; else a shift before it.
        channels_per_head: of the attention; None is one head.
        resample_convolves: a block that resamples has a convolution on its skip even where channels stay.
        taps: of the resampling filter.
        initialise: how weights begin.
    """

    embedding: int
    dropout: float
    eps: float
    skip_scale: float
    adaptive_scale: bool
    channels_per_head: int | None
    resample_convolves: bool
    taps: tuple[int, ...]
    initialise: Initialisation


class UNetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))) modulated by the embedding)), then x + attention(x), where it attends."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style: BlockStyle,
        *,
        resample: Resampling | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels, self.style = out_channels, style
        initialise = style.initialise
        self.norm0 = GroupNorm(in_channels, style.eps)
        self.conv0 = Convolution(in_channels, out_channels, 3, resample=resample, taps=style.taps)
        self.affine = nn.Linear(style.embedding, out_channels * (2 if style.adaptive_scale else 1))
        self.norm1 = GroupNorm(out_channels, style.eps)
        self.conv1 = Convolution(out_channels, out_channels, 3)
        initialise(self.conv0)
        initialise(self.affine)
        initialise(self.conv1, initialise.residual)
        self.skip = self._skip(in_channels, resample)
        self.heads = 0
        if attention:
            self.heads = 1 if style.channels_per_head is None else max(1, out_channels // style.channels_per_head)
            self.norm2 = GroupNorm(out_channels, style.eps)
            self.qkv = Convolution(out_channels, 3 * out_channels, 1)
            self.proj = Convolution(out_channels, out_channels, 1)
            initialise(self.qkv, initialise.attention)
            initialise(self.proj, initialise.residual)

    def _skip(self, in_channels: int, resample: Resampling | None) -> nn.Module | None:
        style = self.style
        if in_channels != self.out_channels or (resample is not None and style.resample_convolves):
            skip = Convolution(in_channels, self.out_channels, 1, resample=resample, taps=style.taps)
            style.initialise(skip)
            return skip
        return None if resample is None else Resample(resample, style.taps)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, in_channels, H, W), (B or 1, embedding) -> (B, out_channels, H', W')."""
        style = self.style
        modulation = self.affine(embedding)[..., None, None].to(x.dtype)
        y = self.conv0(F.silu(self.norm0(x)))
        if style.adaptive_scale:
            scale, shift = modulation.chunk(2, dim=1)
            y = torch.addcmul(shift, self.norm1(y), scale + 1)
        else:
            y = self.norm1(y + modulation)
        y = self.conv1(F.dropout(F.silu(y), style.dropout, self.training))
        y = (y + (x if self.skip is None else self.skip(x))) * style.skip_scale
        return (y + self._attend(y)) * style.skip_scale if self.heads else y

    def _attend(self, x: Tensor) -> Tensor:
        """Attention over pixels; channels of `qkv` are (head, channel, [query, key, value])."""
        batch, channels, height, width = x.shape
        mixed = self.qkv(self.norm2(x)).reshape(batch, self.heads, channels // self.heads, 3, height * width)
        query, key, value = mixed.permute(3, 0, 1, 4, 2)
        attended = F.scaled_dot_product_attention(query, key, value)  # its softmax is in float32 at least
        return self.proj(attended.transpose(2, 3).reshape(batch, channels, height, width))
