"""Principal components, against their definition."""

from __future__ import annotations

import pytest
import torch

from core.studies.components import principal_components

F64 = torch.float64


def test_a_line_has_one_component() -> None:
    along = torch.tensor([-2.0, 0.5, 3.0, 4.5], dtype=F64)
    vectors = torch.tensor([1.0, 2.0, 3.0], dtype=F64) + along[:, None] * torch.tensor([0.0, -0.6, -0.8], dtype=F64)
    found = principal_components(vectors, 2)
    torch.testing.assert_close(found.shares, torch.tensor([1.0, 0.0], dtype=F64))
    torch.testing.assert_close(found.directions[0], torch.tensor([0.0, 0.6, 0.8], dtype=F64))  # its largest is positive
    torch.testing.assert_close(found.scores[:, 0], along.mean() - along)


def test_they_are_the_eigenvectors_of_the_covariance() -> None:
    vectors = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = principal_components(vectors, 3)
    values, axes = torch.linalg.eigh(vectors.T.cov())
    torch.testing.assert_close(found.shares, values.flip(0)[:3] / values.sum())
    overlap = (found.directions @ axes.flip(1)[:, :3]).abs()
    torch.testing.assert_close(overlap, torch.eye(3, dtype=F64))
    torch.testing.assert_close(found.scores, (vectors - vectors.mean(0)) @ found.directions.mT)


@pytest.mark.parametrize(("vectors", "count"), [(torch.ones(3, 2), 1), (torch.eye(3), 3), (torch.eye(3), 0)])
def test_what_has_none_is_refused(vectors: torch.Tensor, count: int) -> None:
    with pytest.raises(ValueError, match="expected vectors"):
        principal_components(vectors, count)
