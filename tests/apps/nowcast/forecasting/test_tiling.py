from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.nowcast.forecasting.tiling import Tiling


@given(st.integers(1, 150), st.integers(1, 150), st.integers(0, 28))
def test_the_weights_are_a_partition_of_unity(height: int, width: int, overlap: int) -> None:
    tiling = Tiling((height, width), (32, 40), overlap, 4)
    total = np.zeros(tiling.padded)
    for tile in tiling:
        assert tile.row % 4 == tile.column % 4 == 0
        weight = tiling.weight(tile)
        assert weight.shape == (32, 40)
        assert (weight >= 0).all()
        tiling.cut(total, tile)[...] += weight
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    assert len(tiling.tiles) == len(tiling)


@given(st.integers(41, 200), st.integers(0, 28))
def test_neighbours_share_what_was_asked_for(width: int, overlap: int) -> None:
    columns = [tile.column for tile in Tiling((32, width), (32, 40), overlap, 4)]
    assert all(one + 40 - two >= overlap for one, two in pairwise(columns))
    assert columns[-1] + 40 == -(-width // 4) * 4


def test_a_tile_begins_with_next_to_nothing() -> None:
    tiling = Tiling((32, 72), (32, 40), 8, 4)
    first, second = tiling
    weight = tiling.weight(second)[0]
    assert weight[0] < 0.01
    assert (np.diff(weight[:8]) > 0).all()
    np.testing.assert_array_equal(weight[8:], 1.0)
    np.testing.assert_allclose(tiling.weight(first)[0][32:] + weight[:8], 1.0, atol=1e-6)


def test_latents_are_cut_where_pixels_are() -> None:
    tiling = Tiling((50, 70), (32, 40), 8, 4)
    pixels = np.arange(np.prod(tiling.padded)).reshape(tiling.padded)
    latents = pixels[::4, ::4]
    for tile in tiling:
        np.testing.assert_array_equal(tiling.cut(latents, tile, 4), tiling.cut(pixels, tile)[::4, ::4])


def test_a_small_domain_is_padded() -> None:
    tiling = Tiling((5, 3), (32, 40), 8, 4)
    padded = tiling.pad(np.ones((2, 5, 3)))
    assert padded.shape == (2, 32, 40)
    assert padded.sum() == 30
    assert len(tiling) == 1


@pytest.mark.parametrize("overlap", [-1, 29])
def test_overlaps_that_do_not_fit_are_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap of 0 to 28"):
        Tiling((50, 70), (32, 40), overlap, 4)
