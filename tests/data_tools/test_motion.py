"""Phase correlation against displacements that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from data_tools.motion import displacement


def blobs(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """A field that is dry in most places."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.0, mode="wrap")
    return np.maximum(noise - noise.std(), 0.0) / noise.max()


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (3, -5), (-7, 2), (0, 9)])
def test_whole_pixels(rows: int, columns: int) -> None:
    field = blobs(1, (96, 80))
    found = displacement(field, np.roll(field, (rows, columns), axis=(0, 1)))
    assert found == pytest.approx((rows, columns), abs=0.1)


@pytest.mark.parametrize(("rows", "columns"), [(0.5, -1.25), (-2.7, 3.3)])
def test_parts_of_a_pixel(rows: float, columns: float) -> None:
    field = blobs(2, (64, 96))
    moved = np.maximum(ndimage.shift(field, (rows, columns), order=3, mode="grid-wrap"), 0.0)
    assert displacement(field, moved) == pytest.approx((rows, columns), abs=0.25)


def test_going_back_is_the_opposite() -> None:
    one = blobs(3, (48, 64))
    two = np.roll(one, (2, -3), axis=(0, 1)) + 0.1 * blobs(4, (48, 64))
    assert np.add(displacement(one, two), displacement(two, one)) == pytest.approx((0.0, 0.0), abs=0.2)


def test_turning_the_field_turns_the_displacement() -> None:
    one = blobs(5, (48, 64))
    two = np.roll(one, (2, -3), axis=(0, 1))
    rows, columns = displacement(one, two)
    assert displacement(one.T, two.T) == pytest.approx((columns, rows), abs=1e-6)
    assert displacement(5.0 * one, 5.0 * two) == pytest.approx((rows, columns), abs=1e-6)


def test_nothing_and_small_fields_do_not_fail() -> None:
    assert displacement(np.zeros((8, 9)), np.zeros((8, 9)))[0] == pytest.approx(0.0, abs=2.5)
    assert all(abs(one) <= 1.5 for one in displacement(np.ones((3, 4)), np.ones((3, 4))))
