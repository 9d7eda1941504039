"""Endpoint distances: what a student's rollout is compared with its supervision by.

Every distance is a frozen dataclass that maps (prediction, reference) to a scalar and has a `name` for the checkpoint.
Single-member ones take two tensors of one shape (B, ...). Those of an ensemble take members (B, M, ...) and a reference
(B, ...); `PerMember` makes one of the former kind into one of the latter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from core.perceptual import LPIPS, Decoded, FeatureDistance, Features, same_shape, unit_length

__all__ = [
    "LPIPS",
    "MAE",
    "MSE",
    "Decoded",
    "Distance",
    "EnsembleMean",
    "FairCRPS",
    "FeatureDistance",
    "Features",
    "PerMember",
    "Pooled",
    "WeightedSum",
    "latent_and_decoded",
    "pool",
    "unit_length",
]


class Distance(Protocol):
    """(prediction, reference) -> 0-dim tensor, lower is nearer."""

    @property
    def name(self) -> str: ...

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class MSE:
    """Mean squared error over all elements."""

    @property
    def name(self) -> str:
        return "mse"

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        same_shape(prediction, reference)
        return F.mse_loss(prediction, reference)


@dataclass(frozen=True, slots=True)
class MAE:
    """Mean absolute error over all elements."""

    @property
    def name(self) -> str:
        return "mae"

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        same_shape(prediction, reference)
        return F.l1_loss(prediction, reference)


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


def latent_and_decoded(
    weight: float, decoder: Callable[[Tensor], Tensor], features: Features, label: str, normalised: bool = False
) -> WeightedSum:
    """MSE of latents + weight * feature distance of what is decoded from them (SpanLift, arXiv 2606.08672, eq. 16).

    There the features are DINOv2's; the weight is not stated.

    Args:
        weight: lambda.
        decoder: frozen; latents (B, ...) to images (B, C, H, W).
        features, label, normalised: see `FeatureDistance`.
    """
    return WeightedSum(((1.0, MSE()), (weight, Decoded(FeatureDistance(features, label, (), normalised), decoder))))
