"""The latent nowcasting model: a frame-wise autoencoder, a cuboid-attention UNet, an alignment network; in any size."""

from __future__ import annotations

from apps.nowcast.model.alignment import AlignmentConfig, AlignmentNetwork
from apps.nowcast.model.autoencoder import AutoencoderKL, DiagonalGaussian
from apps.nowcast.model.configs import AutoencoderConfig, UNetConfig
from apps.nowcast.model.unet import CuboidTransformerUNet

__all__ = [
    "AlignmentConfig",
    "AlignmentNetwork",
    "AutoencoderConfig",
    "AutoencoderKL",
    "CuboidTransformerUNet",
    "DiagonalGaussian",
    "UNetConfig",
]
