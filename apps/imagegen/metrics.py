"""Distances of sets of images by their features: Fréchet distance, precision and recall.

Everything is float64. The features of which network a distance is over belongs to every number: only over those of
Inception (2015-12-05) is the Fréchet distance an FID.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from core.fitting import write_atomically
from data_tools.cli import UserError

CHUNK = 1024
"""Rows of a distance matrix that are in memory at once."""


class HasMoments(Protocol):
    """What a Fréchet distance needs of a set: the mean (d,) and the covariance (d, d) of its features."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def covariance(self) -> Tensor: ...


class Gaussian(NamedTuple):
    """Moments without the set they came from, such as a published reference: mean (d,), covariance (d, d), float64."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Mean and scatter of features, grown batch by batch; the order and size of batches do not matter.

    Attributes:
        count: samples seen.
        mean: (d,) float64.
        scatter: (d, d) float64, sum of (f - mean)(f - mean)^T: nothing is cancelled as in sum f f^T - n mean mean^T.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dim: int) -> Moments:
        """Of no samples with `dim` features."""
        zero = torch.zeros(dim, dtype=torch.float64)
        return cls(0, zero, torch.outer(zero, zero))

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of features (n, d), on the CPU.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        if features.ndim != 2 or not len(features):
            raise ValueError(f"expected features (n, d), got {tuple(features.shape)}; give one row per image")
        features = features.detach().double()
        if not bool(torch.isfinite(features).all()):
            raise ValueError("expected finite features, got NaN or infinity; check the images")
        mean = features.mean(0)
        centred = features - mean
        return cls(len(features), mean.cpu(), (centred.T @ centred).cpu())

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together (Chan, Golub & LeVeque 1983, eq. 2.1).

        Raises:
            ValueError: another number of features.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"expected {len(self.mean)} features, got {len(other.mean)}; use one network for both")
        count = self.count + other.count
        if not count:
            return self
        shift = other.mean - self.mean
        share = other.count / count
        scatter = self.scatter + other.scatter + (self.count * share) * torch.outer(shift, shift)
        return Moments(count, self.mean + share * shift, scatter)

    @property
    def covariance(self) -> Tensor:
        """Unbiased, (d, d).

        Raises:
            ValueError: fewer than two samples.
        """
        if self.count < 2:
            raise ValueError(f"expected at least 2 samples for a covariance, got {self.count}; draw more")
        return self.scatter / (self.count - 1)


def frechet_distance(first: HasMoments, second: HasMoments) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians (Dowson & Landau 1982; Heusel et al. 2017).

    tr (S1 S2)^(1/2) is the sum of the singular values of S1^(1/2) S2^(1/2), which exists and is real whatever the rank:
    nothing is added to the diagonals, no imaginary part is dropped. It is biased upward for few samples: compare sets
    of one size.

    Raises:
        ValueError: another number of features, or moments that are not finite.
    """
    mean, covariance = first.mean.double(), first.covariance.double()
    other_mean, other = second.mean.double(), second.covariance.double()
    if mean.shape != other_mean.shape:
        raise ValueError(f"expected {len(mean)} features, got {len(other_mean)}; use one network for both sets")
    if not all(bool(torch.isfinite(part).all()) for part in (mean, covariance, other_mean, other)):
        raise ValueError("expected finite moments, got NaN or infinity; check the images")
    cross = torch.linalg.svdvals(_root(covariance) @ _root(other)).sum()
    distance = (mean - other_mean).square().sum() + covariance.trace() + other.trace() - 2 * cross
    return max(0.0, float(distance))  # rounding may leave equal sets a little below


def _root(covariance: Tensor) -> Tensor:
    """Symmetric square root of a positive semidefinite matrix; eigenvalues below zero are rounding errors."""
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.T))
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


class PrecisionRecall(NamedTuple):
    """Share of the samples that look real, and of the real images that are reached; both in [0, 1], high is good."""

    precision: float
    recall: float


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2).

    The manifold of a set is the union of balls around its points that reach to the k-th nearest neighbour in the set.

    Args:
        real: (n, d) features, n > k.
        fake: (m, d) features, m > k.
        k: neighbour whose distance is the radius.

    Raises:
        ValueError: too few samples, or another number of features.
    """
    for name, features in (("real", real), ("generated", fake)):
        if features.ndim != 2 or len(features) <= k:
            raise ValueError(f"expected more than {k} {name} samples (n, d), got {tuple(features.shape)}; draw more")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"expected {real.shape[1]} features, got {fake.shape[1]}; use one network for both sets")
    real, fake = real.double(), fake.double()
    return PrecisionRecall(_covered(fake, real, k), _covered(real, fake, k))


def _covered(points: Tensor, centres: Tensor, k: int) -> float:
    """Share of `points` inside at least one ball around `centres`."""
    radii = torch.cat([_distances(part, centres).kthvalue(k + 1, dim=1).values for part in centres.split(CHUNK)])
    inside = [(_distances(part, centres) <= radii).any(1) for part in points.split(CHUNK)]
    return float(torch.cat(inside).double().mean())


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (n, m), of differences and not of products: equal points are at distance zero."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def save_moments(path: Path, moments: HasMoments, features: str) -> Path:
    """Write reference statistics as npz, whole or not at all: `mu` (d,), `sigma` (d, d), and the features' name."""
    content = {"mu": moments.mean.numpy(), "sigma": moments.covariance.numpy(), "features": np.array(features)}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a name would be given another suffix
            np.savez(file, allow_pickle=False, **content)

    write_atomically(path, write)
    return path


def load_moments(path: Path, features: str, dim: int) -> Gaussian:
    """Read reference statistics: npz with `mu` and `sigma`, ours or those published for FID.

    Args:
        path: of the npz; nothing in it is executed.
        features: name of the network in use; a file that names another is refused.
        dim: its number of features.

    Raises:
        UserError: no such file, a damaged one, or one of other features.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            found = {name: content[name] for name in ("mu", "sigma", "features") if name in content.files}
    except FileNotFoundError:
        raise UserError(f"expected reference statistics, found no file {path}; correct the path") from None
    except Exception as error:  # whatever a damaged or hostile archive leads to
        raise UserError(f"expected an npz of plain arrays, got {path} ({type(error).__name__})") from error
    if not {"mu", "sigma"} <= found.keys():
        raise UserError(f"expected arrays mu and sigma in {path}, got {sorted(found) or 'neither'}; give another file")
    named = str(found.get("features", features))
    if named != features:
        raise UserError(f"expected statistics of {features}, got those of {named} in {path}; choose --features to fit")
    mu, sigma = found["mu"], found["sigma"]
    numeric = all(array.dtype.kind == "f" and np.isfinite(array).all() for array in (mu, sigma))
    if mu.shape != (dim,) or sigma.shape != (dim, dim) or not numeric:
        raise UserError(
            f"expected finite mu ({dim},) and sigma ({dim}, {dim}) for {features}, got {mu.dtype} {mu.shape} and "
            f"{sigma.dtype} {sigma.shape} in {path}; choose --features to fit"
        )
    return Gaussian(torch.from_numpy(mu.astype(np.float64)), torch.from_numpy(sigma.astype(np.float64)))
