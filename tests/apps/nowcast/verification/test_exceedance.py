"""Brier score, reliability and ROC against sums over pixels, `scores`, `xskillscore` and pysteps."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import xarray as xr

from apps.nowcast.verification import exceedance as e

THRESHOLDS = (16.0, 74.0, 133.0)


def forecast_and_truth(sample: tuple, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and outcomes of the pixels that have a truth."""
    members, truth = sample
    seen = ~np.isnan(truth)
    return (members >= threshold).mean(axis=0)[seen], (truth >= threshold)[seen].astype(float)


@pytest.mark.parametrize("number", range(3))
def test_brier_and_its_parts_are_those_of_pixels(sample: tuple, number: int) -> None:
    table = e.exceedance_counts(*sample, THRESHOLDS).sum(axis=0)[number]
    p, o = forecast_and_truth(sample, THRESHOLDS[number])
    assert e.brier(table) == pytest.approx(np.mean((p - o) ** 2), abs=1e-14)
    n = len(sample[0])
    assert e.brier_fair(table) == pytest.approx(np.mean((p - o) ** 2 - p * (1 - p) / (n - 1)), abs=1e-14)
    reliability, resolution, uncertainty = e.brier_parts(table)
    assert reliability - resolution + uncertainty == pytest.approx(e.brier(table), abs=1e-14)
    if uncertainty:
        assert e.brier_skill(table) == pytest.approx(1 - e.brier(table) / (o.mean() * (1 - o.mean())))


def test_brier_agrees_with_two_libraries(sample: tuple) -> None:
    import xskillscore
    from scores.probability import brier_score

    table = e.exceedance_counts(*sample, THRESHOLDS).sum(axis=0)
    for number, threshold in enumerate(THRESHOLDS):
        p, o = (xr.DataArray(values, dims=["pixel"]) for values in forecast_and_truth(sample, threshold))
        assert e.brier(table[number]) == pytest.approx(float(brier_score(p, o)), abs=1e-6)
        assert e.brier(table[number]) == pytest.approx(float(xskillscore.brier_score(o, p)), abs=1e-6)


def test_reliability_and_roc_agree_with_libraries(sample: tuple, pysteps: ModuleType) -> None:
    import pysteps.verification.probscores as theirs
    from scores.probability import roc_curve_data

    table = e.exceedance_counts(*sample, THRESHOLDS).sum(axis=0)[1]
    p, o = forecast_and_truth(sample, 74.0)
    n = len(sample[0])
    diagram = theirs.reldiag_init(74.0, n_bins=n + 1)  # their bins hold k / n each
    seen = ~np.isnan(sample[1])
    theirs.reldiag_accum(diagram, p[None], sample[1][seen][None] + 1e-9)
    np.testing.assert_allclose(table.sum(axis=-1), diagram["num_idx"], atol=1e-6)
    np.testing.assert_allclose(table[:, 1], diagram["Y_sum"], atol=1e-6)
    if not 0 < o.mean() < 1:
        assert np.isnan(e.roc_area(table))
        return
    levels = [0.0, *((np.arange(1, n + 1) - 0.5) / n), 1.1]
    data = roc_curve_data(
        xr.DataArray(p, dims="pixel"), xr.DataArray(o, dims="pixel"), levels, check_args=False
    )  # fmt: skip
    np.testing.assert_allclose(e.roc_curve(table), np.stack([data.POFD, data.POD], axis=-1)[: n + 2], atol=1e-6)
    assert e.roc_area(table) == pytest.approx(float(data.AUC), abs=1e-6)


def test_two_members_by_hand() -> None:
    members = np.array([[[5.0, 0, 5, 0]], [[5, 5, 0, 0]]])[:, None]  # 2, 1, 1, 0 members reach 1
    truth = np.array([[[9.0, 9, 0, np.nan]]])
    table = e.exceedance_counts(members, truth, (1.0,))
    np.testing.assert_array_equal(table, [[[[0, 0], [1, 1], [0, 1]]]])
    assert e.brier(table)[0, 0] == pytest.approx((0.25 + 0.25 + 0) / 3)
    np.testing.assert_allclose(e.observed_frequency(table)[0, 0], [np.nan, 0.5, 1.0])
    np.testing.assert_allclose(e.forecast_share(table)[0, 0], [0, 2 / 3, 1 / 3])
    np.testing.assert_allclose(e.roc_curve(table)[0, 0], [[1, 1], [1, 1], [0, 0.5], [0, 0]])
    assert e.roc_area(table)[0, 0] == pytest.approx(0.75)


def test_what_is_undefined_is_nan_and_shapes_are_checked() -> None:
    nothing = np.zeros((2, 4, 2), int)
    for score in (e.brier, e.brier_fair, e.roc_area, e.brier_skill):
        assert np.isnan(score(nothing)).all()
    alone = e.exceedance_counts(np.ones((1, 1, 3, 3)), np.ones((1, 3, 3)), (0.5,))
    assert np.isnan(e.brier_fair(alone)).all()
    with pytest.raises(ValueError, match="expected members"):
        e.exceedance_counts(np.ones((2, 3, 3)), np.ones((3, 4)), (0.5,))


def test_probabilities_that_are_right_are_reliable() -> None:
    rng = np.random.default_rng(0)
    wet = rng.random((1, 300, 400))
    members, truth = (rng.random((4, 1, 300, 400)) < wet), rng.random((1, 300, 400)) < wet
    table = e.exceedance_counts(members * 1.0, truth * 1.0, (0.5,))[0, 0]
    # Bayes: k of n uniform draws say (k + 1) / (n + 2)
    np.testing.assert_allclose(e.observed_frequency(table), (np.arange(5) + 1) / 6, atol=0.02)
    assert e.brier_fair(table) == pytest.approx(np.mean(wet * (1 - wet)), abs=0.002)
