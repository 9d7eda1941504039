"""Fractions skill score against pysteps, the scores library, windows counted one by one, and hand-made fields."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from apps.nowcast.verification.fractions import WINDOWS, fraction_sums, fss, useful_fss

THRESHOLDS = (16.0, 74.0, 133.0)


def by_hand(forecast: np.ndarray, observed: np.ndarray, window: int) -> float:
    """Score of two boolean fields, a window at a time."""
    reach = window // 2
    padded = [np.pad(field.astype(float), reach) for field in (forecast, observed)]
    places = list(np.ndindex(forecast.shape))
    f, o = (np.array([p[y : y + window, x : x + window].mean() for y, x in places]) for p in padded)
    below = np.sum(f**2) + np.sum(o**2)
    return 1 - np.sum((f - o) ** 2) / below if below else np.nan


def test_single_members_and_mean_score_as_window_by_window(sample: tuple) -> None:
    members, truth = sample
    sums = fraction_sums(members, truth, THRESHOLDS, (1, 3, 7))
    seen = ~np.isnan(truth)
    for lead, threshold in np.ndindex(2, 3):
        edge = THRESHOLDS[threshold]
        observed = (truth[lead] >= edge) & seen[lead]
        for place, window in enumerate((1, 3, 7)):
            mean = (members[:, lead].mean(axis=0) >= edge) & seen[lead]
            np.testing.assert_allclose(
                fss(sums.mean[lead, threshold, place]), by_hand(mean, observed, window), atol=1e-12
            )
            one = fraction_sums(members[:1], truth, THRESHOLDS, (window,))
            expected = by_hand((members[0, lead] >= edge) & seen[lead], observed, window)
            np.testing.assert_allclose(fss(one.members[lead, threshold, 0]), expected, atol=1e-12)


def test_members_and_leads_add_up_and_agree_with_pysteps(sample: tuple, pysteps: ModuleType) -> None:
    from pysteps.verification.spatialscores import fss_accum, fss_compute, fss_init

    members, truth = sample
    hidden = np.where(np.isnan(truth), -1.0, members)  # there, theirs counts the forecast
    sums = fraction_sums(members, truth, THRESHOLDS).members.sum(axis=0)
    for (number, threshold), (place, window) in ((a, b) for a in enumerate(THRESHOLDS) for b in enumerate(WINDOWS)):
        theirs = fss_init(threshold, window)
        for member in hidden:
            for forecast, observed in zip(member, truth, strict=True):
                fss_accum(theirs, forecast, observed)
        with np.errstate(invalid="ignore"):
            expected = fss_compute(theirs)
        np.testing.assert_allclose(fss(sums[number, place]), expected, atol=1e-6)


def test_the_probability_form_is_of_the_mean_of_the_members_fractions(sample: tuple) -> None:
    members, truth = sample
    sums = fraction_sums(members, truth, THRESHOLDS, (5,)).probability[0, 1, 0]
    seen = ~np.isnan(truth[0])
    share = np.pad(((members[:, 0] >= 74) & seen).mean(axis=0), 2)
    observed = np.pad(((truth[0] >= 74) & seen).astype(float), 2)
    windows = list(np.ndindex(seen.shape))
    f, o = (np.array([p[y : y + 5, x : x + 5].sum() for y, x in windows]) for p in (share, observed))
    np.testing.assert_allclose(sums, [f @ f, f @ o, o @ o], atol=1e-8)


def test_it_agrees_with_the_scores_library() -> None:
    import xarray as xr
    from scores.spatial import fss_2d

    rng = np.random.default_rng(3)
    forecast, truth = rng.gamma(0.5, 90, (2, 4, 19, 23))
    sums = fraction_sums(forecast[None], truth, (74.0,), (5,)).members.sum(axis=0)
    # Theirs are windows that lie inside: those of fields with a margin are ours, which may reach over the edge.
    padded = (
        xr.DataArray(np.pad(field, ((0, 0), (2, 2), (2, 2))), dims=["t", "y", "x"]) for field in (forecast, truth)
    )
    theirs = fss_2d(
        *padded, event_threshold=74.0, window_size=(5, 5), spatial_dims=("y", "x"),
        threshold_operator=np.greater_equal,
    )  # fmt: skip
    assert fss(sums[0, 0]) == pytest.approx(float(theirs), abs=1e-6)


def test_a_displaced_pixel_is_found_by_wide_windows() -> None:
    forecast, truth = np.zeros((2, 1, 31, 31))
    forecast[0, 15, 15] = truth[0, 15, 17] = 100.0
    scores = fss(fraction_sums(forecast[None], truth, (50.0,), (1, 3, 5, 9)).members[0, 0])
    np.testing.assert_allclose(scores, [0.0, 1 / 3, 3 / 5, 7 / 9], atol=1e-12)


def test_dry_fields_have_no_score_and_windows_need_a_middle() -> None:
    dry = np.zeros((2, 1, 8, 9))
    assert np.isnan(fss(fraction_sums(dry, dry[0], (1.0,), (3,)).members)).all()
    with pytest.raises(ValueError, match="odd sides"):
        fraction_sums(dry, dry[0], (1.0,), (4,))
    assert useful_fss(np.array(0.2)) == pytest.approx(0.6)


def test_a_window_larger_than_the_field_sees_all_of_it() -> None:
    rng = np.random.default_rng(1)
    forecast, truth = rng.random((2, 1, 5, 6)) > 0.5
    sums = fraction_sums(forecast[None] * 1.0, truth * 1.0, (0.5,), (25,)).members[0, 0, 0]
    assert sums == pytest.approx([30 * forecast.sum() ** 2, 30 * forecast.sum() * truth.sum(), 30 * truth.sum() ** 2])
