"""Persistence."""

from __future__ import annotations

import numpy as np
import pytest

from apps.nowcast.baselines import persistence


def test_the_last_frame_is_repeated():
    context = np.random.default_rng(0).random((2, 4, 5, 6), dtype=np.float32)
    forecast = persistence(context, 3)
    assert forecast.shape == (2, 3, 5, 6)
    assert forecast.dtype == np.float32
    for lead in range(3):
        np.testing.assert_array_equal(forecast[:, lead], context[:, -1])


def test_missing_pixels_take_their_last_value_and_zero_if_they_never_had_one():
    context = np.arange(3 * 2 * 3, dtype=np.float64).reshape(3, 2, 3)
    context[2, 0, 0] = np.nan
    context[1:, 0, 1] = np.nan
    context[:, 0, 2] = np.nan
    before = context.copy()
    np.testing.assert_array_equal(persistence(context, 2)[1], [[6.0, 1.0, 0.0], [15.0, 16.0, 17.0]])
    np.testing.assert_array_equal(context, before)


@pytest.mark.parametrize(("shape", "frames"), [((0, 2, 3), 1), ((2, 3), 1), ((1, 2, 3), 0)])
def test_nothing_to_persist_is_refused(shape, frames):
    with pytest.raises(ValueError, match="expected context"):
        persistence(np.zeros(shape), frames)
