"""Principal components: how the learned numbers of several trainings lie to each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Components(NamedTuple):
    """Where vectors lie along the directions in which they differ most.

    Attributes:
        scores: (n, count) coordinates, of mean 0.
        shares: (count,) part of the variance that each direction holds.
        directions: (count, d) of length 1, the largest number of each positive.
    """

    scores: Tensor
    shares: Tensor
    directions: Tensor


def principal_components(vectors: Tensor, count: int = 2) -> Components:
    """The first principal components of vectors (n, d), n > 1.

    Raises:
        ValueError: more components than there are, or vectors that are all the same.
    """
    if vectors.ndim != 2 or not 1 <= count <= min(len(vectors) - 1, vectors.shape[1]):
        raise ValueError(
            f"expected vectors (n, d) and fewer components than n, at most d, got {tuple(vectors.shape)} and {count}"
        )
    centred = vectors - vectors.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    total = singular.square().sum()
    if not total > 0:
        raise ValueError("expected vectors that differ, got copies of one; there is nothing to look along")
    directions = directions[:count]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()
    return Components(centred @ directions.mT, singular[:count].square() / total, directions)
