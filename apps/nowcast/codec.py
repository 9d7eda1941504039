"""The autoencoder with its latent normalisation: frames (B, T, H, W) in [0, 1] <-> latents (B, C, T, h, w)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apps.nowcast.model import AutoencoderConfig, AutoencoderKL


class Codec(nn.Module):
    """The autoencoder with its latent normalisation: frames <-> latents, frame by frame."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.autoencoder = AutoencoderKL(config)
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, T, H, W) -> normalised latents (B, C, T, h, w), the posterior's mode."""
        batch, time = frames.shape[:2]
        mode = self.autoencoder.encode(frames.flatten(0, 1)[:, None]).mode()
        latents = (mode - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]
        return latents.unflatten(0, (batch, time)).transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, T, h, w) -> frames (B, T, H, W); not clamped, so that gradients pass."""
        batch, _, time = latents.shape[:3]
        flat = latents.transpose(1, 2).flatten(0, 1)
        frames = self.autoencoder.decode(flat * self.latent_std[:, None, None] + self.latent_mean[:, None, None])
        return frames[:, 0].unflatten(0, (batch, time))
