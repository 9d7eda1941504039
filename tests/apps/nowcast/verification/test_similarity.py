"""SSIM against the definition, window by window."""

from __future__ import annotations

import numpy as np
import pytest

from apps.nowcast.verification.similarity import C1, C2, SIDE, ssim_sums


def by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over the windows that lie inside and have all of the truth."""
    offsets = np.arange(SIDE) - SIDE // 2
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    values = []
    for row, column in np.ndindex(y.shape[0] - SIDE + 1, y.shape[1] - SIDE + 1):
        place = np.s_[row : row + SIDE, column : column + SIDE]
        a, b = x[place], y[place]
        if np.isnan(b).any():
            continue
        mean_a, mean_b = (kernel * a).sum(), (kernel * b).sum()
        var_a, var_b = (kernel * (a - mean_a) ** 2).sum(), (kernel * (b - mean_b) ** 2).sum()
        both = (kernel * (a - mean_a) * (b - mean_b)).sum()
        above = (2 * mean_a * mean_b + C1) * (2 * both + C2)
        values.append(above / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2)))
    return float(np.mean(values)) if values else float("nan")


@pytest.mark.parametrize("kind", ["random", "dry", "tied", "missing"])
def test_it_is_the_mean_over_windows(kind: str) -> None:
    rng = np.random.default_rng(0)
    members, truth = rng.random((2, 2, 16, 19)), rng.random((2, 16, 19))
    if kind == "dry":
        truth *= 0
    elif kind == "tied":
        members, truth = np.round(members * 2) / 2, np.round(truth * 2) / 2
    elif kind == "missing":
        truth[0, 2, 3] = truth[1, :, 9] = np.nan  # the second frame has no whole window
    sums, numbers = ssim_sums(members, truth)
    for lead in range(2):
        expected = np.mean([by_hand(member, truth[lead]) for member in members[:, lead]])
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(sums[lead] / numbers[lead], expected, atol=1e-9)


def test_equal_frames_are_wholly_similar_and_small_ones_have_no_windows() -> None:
    truth = np.random.default_rng(1).random((3, 20, 14))
    sums, numbers = ssim_sums(truth[None], truth)
    np.testing.assert_allclose(sums / numbers, 1.0)
    np.testing.assert_array_equal(numbers, 10 * 4)
    assert not np.any(ssim_sums(truth[None, :, :, :9], truth[:, :, :9]))
