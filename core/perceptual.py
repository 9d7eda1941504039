"""Perceptual distances: frozen networks look at both sides, directly or after a decoder.

Gradients pass through the networks to the prediction; their parameters get none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from core.frozen import check_frozen
from core.rematerialisation import recomputed

if TYPE_CHECKING:
    from core.losses import Distance

Features = Callable[[Tensor], Sequence[Tensor]]
"""A frozen net: images (B, C, H, W) -> feature maps (B, C_l, H_l, W_l), one a layer; (B, C_l) where there is no
space."""


def same_shape(prediction: Tensor, reference: Tensor) -> None:
    """Raise ValueError unless both have one shape."""
    if prediction.shape != reference.shape:
        raise ValueError(
            f"expected a prediction of the reference's shape {tuple(reference.shape)}, got {tuple(prediction.shape)}; "
            "use PerMember or FairCRPS for members (B, M, ...)"
        )


@dataclass(frozen=True, slots=True, eq=False)
class FeatureDistance:
    """Distance of a frozen net's features, mean over positions and samples, weighted over layers.

    Normalised, each position's feature vector is brought to length one before the squared difference is summed over
    channels, as LPIPS does: texture counts and amplitude does not. Plain, the squared difference is averaged over
    channels as it is: amplitude counts too.

    Attributes:
        features: the frozen net; its parameters must not require gradients.
        label: what to call it in the checkpoint.
        weights: one a layer; () weighs all the same, with sum one.
        normalised: see above.
        as_images: (B, ...) fields to the net's input (B', C, H, W), e.g. frames to single images; None gives them as
            they are.
    """

    features: Features
    label: str
    weights: tuple[float, ...] = ()
    normalised: bool = True
    as_images: Callable[[Tensor], Tensor] | None = None

    @property
    def name(self) -> str:
        kind = "normalised" if self.normalised else "plain"
        weights = "" if not self.weights else f",weights={list(self.weights)}"
        return f"features({self.label},{kind}{weights})"

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        same_shape(prediction, reference)
        if self.as_images is not None:
            prediction, reference = self.as_images(prediction), self.as_images(reference)
        with torch.no_grad():
            expected = self.features(reference)
        got = self.features(prediction)
        weights = self.weights or (1 / len(expected),) * len(expected)
        if len(weights) != len(expected):
            raise ValueError(
                f"expected {len(expected)} layer weights for {self.label}, got {len(weights)}; give one a layer"
            )
        terms = [w * self._layer(a, b) for w, a, b in zip(weights, got, expected, strict=True)]
        return torch.stack(terms).sum()

    def _layer(self, a: Tensor, b: Tensor) -> Tensor:
        if not self.normalised:
            return (a - b).square().mean()
        return (unit_length(a) - unit_length(b)).square().sum(1).mean()


def unit_length(features: Tensor, floor: float = 1e-6) -> Tensor:
    """Feature vectors (B, C, ...) divided by their length over channels; the floor keeps zero vectors and their
    gradient."""
    return features / (features.square().sum(1, keepdim=True) + floor**2).sqrt()


@dataclass(frozen=True, slots=True, eq=False)
class LPIPS:
    """Learned perceptual image patch similarity, mean over samples (Zhang et al. 2018, arXiv 1801.03924).

    Attributes:
        network: a constructed `lpips.LPIPS`, or any module of (images, images) -> distances (B, ...), frozen and in
            eval mode. Its own trunk and heads decide what is measured: nothing is downloaded here.
        label: what to call it in the checkpoint, e.g. "vgg".
        as_images: (B, ...) fields to the network's input, (B', 3, H, W) in [-1, 1]; None gives them as they are.

    Raises:
        ValueError: the network is not frozen.
    """

    network: nn.Module
    label: str
    as_images: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        check_frozen(self.network)

    @property
    def name(self) -> str:
        return f"lpips({self.label})"

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        same_shape(prediction, reference)
        if self.as_images is not None:
            prediction, reference = self.as_images(prediction), self.as_images(reference)
        return self.network(prediction, reference.detach()).mean()


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Another distance, of what a frozen decoder makes of latents.

    Attributes:
        distance: of decoded fields.
        decoder: latents (B, ...) -> fields (B, ...); where it is a module, frozen and in eval mode.
        rematerialise: keep no activations of decoder and distance for the backward pass but compute them again there,
            one after the other: memory is that of the larger.

    Raises:
        ValueError: the decoder is a module and not frozen.
    """

    distance: Distance
    decoder: Callable[[Tensor], Tensor]
    rematerialise: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.decoder, nn.Module):
            check_frozen(self.decoder)

    @property
    def name(self) -> str:
        return f"decoded({self.distance.name})"

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        with torch.no_grad():
            expected = self.decoder(reference)
        if not (self.rematerialise and torch.is_grad_enabled() and prediction.requires_grad):
            return self.distance(self.decoder(prediction), expected)
        return recomputed(self.distance, recomputed(self.decoder, prediction), expected)
