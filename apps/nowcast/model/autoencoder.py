"""Frame-wise KL autoencoder between radar frames and latents (PreDiff, Gao et al. 2023, section 3.1).

A latent-diffusion autoencoder: residual levels with strided convolutions down, nearest-neighbour upsampling up, one
attention block at the coarsest level. Frames are encoded one by one and time plays no role. Module names are those of
the published PreDiff weights.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.nowcast.model.configs import AutoencoderConfig
from apps.nowcast.model.published import AutoencoderOptions, autoencoder_config

NORM_EPS = 1e-6
LOGVAR_RANGE = (-30.0, 20.0)


class DiagonalGaussian(NamedTuple):
    """Posterior over latents: independent normals with `mean` and `logvar`, both (N, C, h, w)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, (N, C, h, w), reproducible with a `generator` on the device of the mean."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def mode(self) -> Tensor:
        """The most probable latents: the mean."""
        return self.mean

    def kl(self) -> Tensor:
        """Divergence from the standard normal in nats, (N,): sum of (mean^2 + var - 1 - logvar) / 2 over each frame."""
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1 x 1 shortcut where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class AttentionBlock(nn.Module):
    """Single-head self-attention over the cells of one frame, with a residual connection."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.proj_attn = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # (N, h*w, C)
        scores = self.query(tokens) @ self.key(tokens).transpose(1, 2) / tokens.shape[-1] ** 0.5
        # Softmax in float32 whatever the dtype, as in the weights' own code: float64 agrees with it to the last digit.
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(scores.dtype)
        attended = self.proj_attn(weights @ self.value(tokens))
        return x + attended.transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    """Halves height and width: a 3 x 3 convolution of stride two, padded on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width: nearest neighbour, then a 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def resnets(in_channels: int, out_channels: int, layers: int, groups: int) -> nn.ModuleList:
    """`layers` residual blocks of which the first changes the channels."""
    widths = [in_channels] + [out_channels] * layers
    return nn.ModuleList(ResnetBlock(a, b, groups) for a, b in pairwise(widths))


class DownBlock(nn.Module):
    """One encoder level: residual blocks, then a halving unless the level is the last."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, last: bool) -> None:
        super().__init__()
        self.resnets = resnets(in_channels, out_channels, layers, groups)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        for module in (*self.resnets, *self.downsamplers):
            x = module(x)
        return x


class UpBlock(nn.Module):
    """One decoder level: residual blocks, then a doubling unless the level is the last."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, last: bool) -> None:
        super().__init__()
        self.resnets = resnets(in_channels, out_channels, layers, groups)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        for module in (*self.resnets, *self.upsamplers):
            x = module(x)
        return x


class MidBlock(nn.Module):
    """Residual block, attention, residual block at the coarsest level."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([AttentionBlock(channels, groups)])
        self.resnets = resnets(channels, channels, 2, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    """Frames (N, in, H, W) to moments (N, 2 latent, h, w)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(widths[max(i - 1, 0)], width, config.layers_per_block, groups, i == last)
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents (N, latent, h, w) to frames (N, in, H, W); one residual block more per level than the encoder."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.up_blocks = nn.ModuleList(
            UpBlock(widths[max(i - 1, 0)], width, config.layers_per_block + 1, groups, i == last)
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[0], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.in_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AutoencoderKL(nn.Module):
    """Frames to a Gaussian over latents and back; convolutional, so any height and width that `compression` divides.

    Latents are used as they are, without a scaling factor, and decoded frames are not clamped.
    """

    def __init__(self, config: AutoencoderConfig | None = None, **published: Unpack[AutoencoderOptions]) -> None:
        """Sizes of our `config`, or by the names of PreDiff's configuration, see `apps.nowcast.model.published`.

        Raises:
            TypeError, ValueError: both, an unknown option, or one that this network cannot follow.
        """
        super().__init__()
        if config is not None and published:
            raise TypeError(f"expected a config or PreDiff's options, got both: {', '.join(published)}")
        config = autoencoder_config(published) if config is None else config
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, frames: Tensor) -> DiagonalGaussian:
        """Posterior of frames (N, in_channels, H, W) over latents (N, latent_channels, H/8, W/8 for four levels).

        Raises:
            ValueError: frames of another rank or channel count, or whose height or width cannot be halved to latents.
        """
        channels, cell = self.config.in_channels, self.config.compression
        if frames.ndim != 4 or frames.shape[1] != channels or frames.shape[2] % cell or frames.shape[3] % cell:
            raise ValueError(
                f"expected frames (N, {channels}, H, W) with H and W multiples of {cell}, got {tuple(frames.shape)}; "
                "put frames on the batch axis, and crop or pad them"
            )
        mean, logvar = self.quant_conv(self.encoder(frames)).chunk(2, dim=1)
        return DiagonalGaussian(mean, logvar.clamp(*LOGVAR_RANGE))

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (N, in_channels, H, W) of latents (N, latent_channels, h, w), not clamped to [0, 1].

        Raises:
            ValueError: latents of another rank or channel count.
        """
        channels = self.config.latent_channels
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise ValueError(
                f"expected latents (N, {channels}, h, w), got {tuple(latents.shape)}; put frames on the batch axis"
            )
        return self.decoder(self.post_quant_conv(latents))

    def forward(self, frames: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, DiagonalGaussian]:
        """Reconstruction from one draw of the posterior, and the posterior: what training needs."""
        posterior = self.encode(frames)
        return self.decode(posterior.sample(generator)), posterior
