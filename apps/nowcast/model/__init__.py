"""The latent nowcasting model: a frame-wise autoencoder and a cuboid-attention UNet, in any size."""

from __future__ import annotations

from apps.nowcast.model.autoencoder import AutoencoderKL, DiagonalGaussian
from apps.nowcast.model.configs import AutoencoderConfig, UNetConfig
from apps.nowcast.model.unet import CuboidTransformerUNet

__all__ = ["AutoencoderConfig", "AutoencoderKL", "CuboidTransformerUNet", "DiagonalGaussian", "UNetConfig"]
