"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193): the features that SpanLift's loss for latent models compares (eq. 16).

The paper does not say which size, which features, nor at what resolution. Ours: the base model, the class token after
the last normalisation, and whole images resized to the 224 x 224 pixels that DINOv2 is evaluated at.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apps.backbones import IMAGENET_MEAN, IMAGENET_STD
from apps.imagegen.local_weights import file_hash, find_weights, read_network, require_weights

DINO_VARIABLE = "SPANLIFT_DINO"
"""Environment variable with a folder of DINOv2's config.json and model.safetensors."""
REPOSITORY = "facebook/dinov2-base"
SIDE = 224
"""Pixels that images are resized to: 16 patches of 14."""


class Dino(nn.Module):
    """Images (B, 1 or 3, H, W) in [-1, 1], clipped to it -> features (B, D), with gradients.

    Args:
        network: a frozen transformers.Dinov2Model.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = (
            nn.Buffer(torch.tensor(values)[:, None, None], persistent=False) for values in (IMAGENET_MEAN, IMAGENET_STD)
        )

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images.clip(-1, 1) + 1) / 2
        resized = F.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)
        return self.network((resized - self.mean) / self.std).pooler_output


def dino_at_hand() -> bool:
    """Whether `load_dino` would find weights and packages; costs no import of transformers."""
    return find_spec("transformers") is not None and find_weights(DINO_VARIABLE, REPOSITORY) is not None


def load_dino() -> tuple[Dino, str]:
    """DINOv2 on the CPU, frozen, float32, and what a loss calls it: its size and the first digits of its file's hash.

    Raises:
        UserError: transformers is not installed; no weights in the folder of SPANLIFT_DINO or, where that is not set,
            in the hub's cache; or those of another network.
    """
    folder = require_weights(DINO_VARIABLE, REPOSITORY, "DINOv2", "take --loss mse=1,features=1")
    from transformers import Dinov2Model

    network = read_network(Dinov2Model, folder, DINO_VARIABLE)
    size = network.config
    name = f"DINOv2 {size.hidden_size}x{size.num_hidden_layers} {file_hash(folder)[:8]}"  # pyright: ignore
    return Dino(network).eval(), name
