"""Endpoint distances: what a student's rollout is compared with its supervision by.

Every distance is a frozen dataclass that maps (prediction, reference) to a scalar and has a `name` for the checkpoint.
Single-member ones take two tensors of one shape (B, ...). Those of an ensemble take members (B, M, ...) and a reference
(B, ...); `PerMember` makes one of the former kind into one of the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Features = Callable[[Tensor], Sequence[Tensor]]
"""A frozen net: images (B, C, H, W) -> feature maps (B, C_l, H_l, W_l), one a layer; (B, C_l) where there is no
space."""


class Distance(Protocol):
    """(prediction, reference) -> 0-dim tensor, lower is nearer."""

    @property
    def name(self) -> str: ...

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor: ...


def _same_shape(prediction: Tensor, reference: Tensor) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"expected a prediction of the reference's shape {tuple(reference.shape)}, got {tuple(prediction.shape)}; "
            "use PerMember or FairCRPS for members (B, M, ...)"
        )


@dataclass(frozen=True, slots=True)
class MSE:
    """Mean squared error over all elements."""

    @property
    def name(self) -> str:
        return "mse"

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        _same_shape(prediction, reference)
        return F.mse_loss(prediction, reference)


@dataclass(frozen=True, slots=True)
class MAE:
    """Mean absolute error over all elements."""

    @property
    def name(self) -> str:
        return "mae"

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        _same_shape(prediction, reference)
        return F.l1_loss(prediction, reference)


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
        _same_shape(prediction, reference)
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


@dataclass(frozen=True, slots=True)
class Pooled:
    """Another distance, of fields pooled over `size` x `size` windows: intensities matter, their exact place does not.

    The last two axes are pooled; a remainder at the edge makes a smaller window of its own.
    """

    distance: Distance
    size: int
    kind: Literal["max", "mean"] = "max"

    @property
    def name(self) -> str:
        return f"{self.kind}-pooled({self.distance.name},{self.size})"

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        return self.distance(pool(prediction, self.size, self.kind), pool(reference, self.size, self.kind))


def pool(fields: Tensor, size: int, kind: Literal["max", "mean"] = "max") -> Tensor:
    """Maximum or mean of `size` x `size` windows over the last two axes of (..., H, W)."""
    if size == 1:
        return fields
    flat = fields.flatten(0, -3).unsqueeze(1) if fields.ndim > 2 else fields[None, None]
    if kind == "max":
        pooled = F.max_pool2d(flat, size, ceil_mode=True)
    else:
        pooled = F.avg_pool2d(flat, size, ceil_mode=True)
    return pooled.reshape(*fields.shape[:-2], *pooled.shape[-2:])


@dataclass(frozen=True, slots=True)
class FairCRPS:
    """Fair continuous ranked probability score of M >= 2 members, mean over all else; in the reference's units, 0 is
    best.

    CRPS = mean_i |x_i - y| - sum_{i<j} |x_i - x_j| / (M (M - 1)): unbiased in the number of members (Ferro 2014), so
    that training two members at a time aims at the distribution and not at a narrowed one. Wrapped in `Pooled` it is
    the score of pooled fields.
    """

    @property
    def name(self) -> str:
        return "fair-crps"

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        members = _members(prediction, reference)
        if members < 2:
            raise ValueError(f"expected at least 2 members for a fair CRPS, got {members}; draw more members")
        error = (prediction - reference.unsqueeze(1)).abs().mean()
        # after sorting, sum_{i<j} |x_i - x_j| = sum_k (2k - M + 1) x_(k): no pairs are held in memory
        ordered = prediction.sort(dim=1).values
        weights = 2 * torch.arange(members, dtype=prediction.dtype, device=prediction.device) - members + 1
        spread = torch.einsum("m,bm...->b...", weights, ordered).mean() / (members * (members - 1))
        return error - spread


def _members(prediction: Tensor, reference: Tensor) -> int:
    if prediction.ndim != reference.ndim + 1 or prediction[:, 0].shape != reference.shape:
        raise ValueError(
            f"expected members (B, M, ...) of a reference {tuple(reference.shape)}, got {tuple(prediction.shape)}; "
            "put the members on axis 1"
        )
    return prediction.shape[1]


@dataclass(frozen=True, slots=True)
class PerMember:
    """A single-member distance, mean over the members (B, M, ...) of an ensemble."""

    distance: Distance

    @property
    def name(self) -> str:
        return f"per-member({self.distance.name})"

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        _members(prediction, reference)
        repeated = reference.unsqueeze(1).expand_as(prediction)
        return self.distance(prediction.flatten(0, 1), repeated.flatten(0, 1))


@dataclass(frozen=True, slots=True)
class EnsembleMean:
    """A single-member distance, of the mean over the members (B, M, ...)."""

    distance: Distance

    @property
    def name(self) -> str:
        return f"ensemble-mean({self.distance.name})"

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        _members(prediction, reference)
        return self.distance(prediction.mean(1), reference)


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """Sum of weight x distance over its terms."""

    terms: tuple[tuple[float, Distance], ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("expected at least one term, got none; give (weight, distance) pairs")

    @property
    def name(self) -> str:
        return " + ".join(f"{weight:g} {distance.name}" for weight, distance in self.terms)

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        return torch.stack([weight * distance(prediction, reference) for weight, distance in self.terms]).sum()
