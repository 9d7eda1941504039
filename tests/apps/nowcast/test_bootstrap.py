"""Statistics, metrics of sums, and intervals over events."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.nowcast.metrics import (
    METRICS,
    SkillScore,
    Statistics,
    crps,
    difference,
    estimate,
    estimates,
    event_statistics,
    recovered,
    resamples,
)
from apps.nowcast.metrics.statistics import ratio_metric
from data_tools.quantities import QUANTITIES

VIL = QUANTITIES["vil"]
MEAN = ratio_metric("value", "count")


def simple(values: np.ndarray) -> Statistics:
    """Statistics whose metric MEAN is the mean of `values`."""
    arrays = {"value": np.asarray(values, float)[:, None], "count": np.ones((len(values), 1))}
    return Statistics(tuple(range(len(values))), arrays)


def event(seed: int, members: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Forecast (members, 2, 16, 32) and truth (2, 16, 32) in VIL code, a corner of the truth missing."""
    rng = np.random.default_rng(seed)
    truth = rng.gamma(0.5, 90.0, (2, 16, 32)).clip(0, 254).astype(np.float32)
    forecast = (truth + rng.normal(0, 30, (members, 2, 16, 32))).clip(0, 254).astype(np.float32)
    truth[:, :3, :5] = np.nan
    return forecast, truth


def bluntness(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A stand-in for a perceptual distance: mean absolute difference, missing pixels as 0."""
    return (prediction - target).nan_to_num().abs().mean(dim=(-2, -1))


@pytest.fixture(scope="module")
def statistics() -> Statistics:
    rows = ((f"e{seed}", event_statistics(*event(seed), VIL, distance=bluntness, seconds=6.0)) for seed in range(5))
    return Statistics.stack(rows)


def test_total_metrics_are_those_of_all_events_together(statistics):
    forecasts, truths = zip(*(event(seed) for seed in range(5)), strict=True)
    values = {name: float(metric(statistics.total())) for name, metric in METRICS.items()}
    for pool, name in ((1, "csi"), (4, "csi4"), (16, "csi16")):
        single, of_mean = SkillScore(VIL.thresholds, pool), SkillScore(VIL.thresholds, pool)
        for forecast, truth in zip(forecasts, truths, strict=True):
            of_mean.update(forecast.mean(axis=0), truth)
            for member in forecast:
                single.update(member, truth)
        assert values[name] == pytest.approx(single.compute()["csi_mean"], abs=1e-14)
        assert values[f"{name}_of_mean"] == pytest.approx(of_mean.compute()["csi_mean"], abs=1e-14)
        if pool == 1:
            assert values["hss"] == pytest.approx(single.compute()["hss_mean"], abs=1e-14)

    forecast, truth = np.stack(forecasts, axis=1) / 255.0, np.stack(truths) / 255.0
    assert values["crps"] == pytest.approx(np.nanmean(crps(forecast, truth)), rel=1e-6)
    assert values["crps_fair"] == pytest.approx(np.nanmean(crps(forecast, truth, "fair")), rel=1e-6)
    assert values["mae"] == pytest.approx(np.nanmean(np.abs(forecast - truth)), rel=1e-6)
    seen = ~np.isnan(truth)
    spread = forecast.var(axis=0, ddof=1)[seen].mean() * 4 / 3
    error = np.square(forecast.mean(axis=0) - truth)[seen].mean()
    assert values["spread_skill"] == pytest.approx(np.sqrt(spread / error), rel=1e-6)
    assert values["lpips"] == pytest.approx(np.abs(np.nan_to_num(forecast - truth)).mean(), rel=1e-5)
    assert values["seconds_per_member"] == pytest.approx(2.0)


def test_a_perfect_ensemble_has_spread_equal_to_its_error():
    rng = np.random.default_rng(0)
    draw = rng.normal(100, 20, (6, 1, 200, 300)).clip(0, 254)
    sums = Statistics.stack([(0, event_statistics(draw[1:], draw[0], VIL, pools=[1]))]).total()
    assert float(METRICS["spread_skill"](sums)) == pytest.approx(1.0, abs=0.01)


def test_one_member_leaves_ensemble_metrics_undefined():
    forecast, truth = event(0, members=1)
    sums = Statistics.stack([("a", event_statistics(forecast, truth, VIL))]).total()
    for name in ("crps_fair", "spread_skill", "lpips", "seconds_per_member"):
        assert np.isnan(METRICS[name](sums)), name
    assert METRICS["crps"](sums) == pytest.approx(METRICS["mae"](sums), abs=0)


def test_frames_without_truth_count_nowhere():
    forecast, truth = event(0)
    half = truth.copy()
    half[1] = np.nan
    rows = (
        event_statistics(forecast, half, VIL, distance=bluntness),
        event_statistics(forecast[:, :1], truth[:1], VIL, distance=bluntness),
    )
    with_gap, short = (Statistics.stack([("a", row)]).total() for row in rows)
    for name in set(METRICS) - {"seconds_per_member"}:
        assert METRICS[name](with_gap) == pytest.approx(METRICS[name](short), rel=1e-12), name


def test_dry_events_give_numbers_or_nan_but_no_warning():
    dry = np.zeros((3, 2, 16, 32), np.float32)
    found = estimates(Statistics.stack([(0, event_statistics(dry, dry[0], VIL))]), resamples(1, 10))
    assert found["crps"].value == 0
    assert np.isnan([found["csi"].value, found["csi"].low, found["hss"].high]).all()


def test_scores_by_lead_time(statistics):
    for lead in range(2):
        score = SkillScore(VIL.thresholds, pool=4)
        for forecast, truth in (event(seed) for seed in range(5)):
            score.update(forecast[:, lead], np.broadcast_to(truth[lead], forecast[:, lead].shape))
        assert METRICS["csi4"](statistics.at_lead(lead).total()) == pytest.approx(
            score.compute()["csi_mean"], abs=1e-14
        )


@given(st.permutations(range(5)))
@settings(max_examples=10, deadline=None)
def test_order_of_events_does_not_matter(order):
    rows = [(seed, event_statistics(*event(seed), VIL)) for seed in range(5)]
    one, other = (Statistics.stack(each).total() for each in (rows, [rows[i] for i in order]))
    for name in ("csi16", "hss", "crps"):
        assert METRICS[name](one) == pytest.approx(METRICS[name](other), rel=1e-12)


def test_resampled_sums_are_sums_of_repeated_events(statistics):
    weights = resamples(5, draws=7, seed=3)
    drawn = {name: metric(statistics.resampled(weights)) for name, metric in METRICS.items()}
    for draw, row in enumerate(weights):
        chosen = np.repeat(np.arange(5), row)
        repeated = Statistics(tuple(chosen), {name: array[chosen] for name, array in statistics.arrays.items()})
        for name, metric in METRICS.items():
            assert drawn[name][draw] == pytest.approx(float(metric(repeated.total())), rel=1e-12), name


def test_weights_are_seeded_draws_with_replacement():
    weights = resamples(9, draws=4000, seed=1)
    assert (weights.sum(axis=1) == 9).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(9), abs=0.08)
    assert weights.var() == pytest.approx(8 / 9, abs=0.03)
    assert (weights == resamples(9, draws=4000, seed=1)).all()
    assert (weights != resamples(9, draws=4000, seed=2)).any()
    with pytest.raises(ValueError, match="at least one event"):
        resamples(0)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    weights = resamples(60, draws=400, seed=0)
    found = [estimate(simple(rng.exponential(2.0, 60)), MEAN, weights) for _ in range(400)]
    covered = np.mean([each.low <= 2.0 <= each.high for each in found])
    # 0.95 less the shortfall of percentile intervals for 60 skewed values; 3 standard errors of 400 trials are 0.033.
    assert 0.89 <= covered <= 0.97
    width = np.mean([each.high - each.low for each in found])
    assert width == pytest.approx(2 * 1.96 * 2.0 / np.sqrt(60), rel=0.08)


def test_a_paired_difference_is_sharper_than_two_intervals():
    rng = np.random.default_rng(1)
    difficulty = rng.normal(0, 5, 40)  # what both methods share
    one, other = simple(difficulty + 1 + rng.normal(0, 0.1, 40)), simple(difficulty)
    weights = resamples(40, seed=0)
    found = difference(one, other, MEAN, weights)
    assert found.low < 1.0 < found.high
    assert found.high - found.low < 0.1
    alone = estimate(one, MEAN, weights)
    assert alone.high - alone.low > 2
    back = difference(other, one, MEAN, weights)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_recovered_share_of_the_loss():
    rng = np.random.default_rng(2)
    few, gap = rng.normal(3, 1, 30), rng.uniform(1, 2, 30)
    statistics = [simple(few), simple(few + gap)]
    weights = resamples(30, seed=0)
    exact = recovered(simple(few + 0.8 * gap), *statistics, MEAN, weights)
    assert (exact.value, exact.low, exact.high) == pytest.approx((0.8, 0.8, 0.8))
    worse_is_lower = recovered(simple(-few - 0.8 * gap), *(simple(-each.arrays["value"][:, 0]) for each in statistics),
                               MEAN, weights)  # fmt: skip
    assert worse_is_lower.value == pytest.approx(0.8)
    assert np.isnan(recovered(statistics[0], statistics[0], statistics[0], MEAN, weights).value)


def test_methods_on_other_events_are_not_compared():
    one = simple(np.arange(4.0))
    other = Statistics((3, 2, 1, 0), one.arrays)
    with pytest.raises(ValueError, match="same events in the same order"):
        difference(one, other, MEAN, resamples(4))
    with pytest.raises(ValueError, match="same events"):
        recovered(one, one, other, MEAN, resamples(4))


def test_grouping_events_keeps_totals_and_widens_intervals(statistics):
    grouped = statistics.grouped(["a", "b", "a", "a", "b"])
    assert grouped.events == ("a", "b")
    for name, array in statistics.total().items():
        np.testing.assert_allclose(grouped.total()[name], array, rtol=1e-12)
    assert grouped.arrays["counts1"].dtype == np.int64
    copies = simple(np.repeat(np.random.default_rng(0).normal(size=20), 4))
    alone = estimate(copies, MEAN, resamples(80, seed=0))
    together = estimate(copies.grouped(np.repeat(np.arange(20), 4).tolist()), MEAN, resamples(20, seed=0))
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(2.0, abs=0.25)
    with pytest.raises(ValueError, match="one label per event"):
        statistics.grouped(["a"])


def test_bad_forecasts_are_refused():
    forecast, truth = event(0)
    with pytest.raises(ValueError, match="members, leads, y, x"):
        event_statistics(forecast[0], truth, VIL)
    forecast[1, 0, 2, 3] = np.nan
    with pytest.raises(ValueError, match="finite forecast"):
        event_statistics(forecast, truth, VIL)
    with pytest.raises(ValueError, match="at least one event"):
        Statistics.stack([])
