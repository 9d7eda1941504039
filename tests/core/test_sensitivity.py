"""Jacobians of maps whose Jacobians are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.analysis import sensitivity
from core.studies import SineField

F64 = torch.float64


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_a_map_of_each_position_alone_needs_no_window() -> None:
    mix = drawn(0, 3, 3)
    found = sensitivity(
        lambda x: torch.einsum("cd,bdhw->bchw", mix, x.tanh()), drawn(1, 4, 3, 5, 6), drawn(2, 4, 3, 5, 6)
    )
    assert found.outside.shape == found.moved.shape == (4, 4)
    assert found.outside.abs().max() == found.moved.abs().max() == 0


def test_the_mean_of_a_window_is_seen_by_that_window_and_no_smaller_one() -> None:
    """A 5 x 5 mean, away from the border: of 25 equal entries one is at the position, 9 within radius 1."""
    x, ones = drawn(0, 2, 1, 60, 60), torch.ones(2, 1, 60, 60, dtype=F64)
    found = sensitivity(torch.nn.AvgPool2d(5, stride=1, padding=2), x, ones, radii=4, positions=3, seed=2)
    expected = torch.tensor([24 / 25, 16 / 25, 0, 0], dtype=F64)[:, None].expand(4, 2)
    torch.testing.assert_close(found.outside, expected)
    torch.testing.assert_close(found.moved, expected)


def test_rows_of_a_filter_are_those_of_its_matrix() -> None:
    """The denoiser of the sine field: its matrix is made column by column, and the sums by loops."""
    field, t, size = SineField(5, 3.0), torch.tensor(0.7, dtype=F64), 5

    def denoiser(x: Tensor) -> Tensor:
        return x - t * field(x, t)

    matrix = denoiser(torch.eye(size**2, dtype=F64).view(-1, 1, size, size)).flatten(1)  # symmetric
    x, velocity = drawn(0, 2, 1, size, size), drawn(1, 2, 1, size, size)
    found = sensitivity(denoiser, x, velocity, radii=3, positions=4, seed=1)
    chosen = torch.randint(size**2, (2, 4), generator=torch.Generator().manual_seed(1))
    for b in range(2):
        for radius in range(3):
            squares = total = 0.0
            parts, wholes = [], []
            for p in chosen[b].tolist():
                part = 0.0
                for q in range(size**2):
                    far = max(abs(p // size - q // size), abs(p % size - q % size)) > radius
                    squares += far * float(matrix[p, q]) ** 2
                    total += float(matrix[p, q]) ** 2
                    part += far * float(matrix[p, q] * velocity[b].flatten()[q])
                parts.append(part)
                wholes.append(float(matrix[p] @ velocity[b].flatten()))
            assert float(found.outside[radius, b]) == pytest.approx(squares / total, rel=1e-9)
            expected = torch.tensor(parts).norm() / torch.tensor(wholes).norm()
            assert float(found.moved[radius, b]) == pytest.approx(float(expected), rel=1e-5)


def test_frames_are_positions_too_and_nothing_is_asked_for_in_vain() -> None:
    def shifted(x: Tensor) -> Tensor:
        return x.roll(1, 2)  # by one frame

    x = drawn(0, 2, 3, 4, 5, 6)
    found = sensitivity(shifted, x, x, radii=2)
    assert found.outside[0].tolist() == [1, 1]
    assert float(found.outside[1].max()) < 1  # where the first frame comes from the last it is far
    with pytest.raises(ValueError, match="at least 1, got 0 and 8"):
        sensitivity(shifted, x, x, radii=0)
