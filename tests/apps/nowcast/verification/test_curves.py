"""Scores by lead time and threshold, their intervals, paired differences; parts of the events; the page."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from apps.nowcast.metrics import METRICS, Resamples, Statistics, estimates, resamples
from apps.nowcast.verification.curves import curve_differences, curves
from apps.nowcast.verification.definitions import SCORES, page
from apps.nowcast.verification.events import event_sums
from apps.nowcast.verification.scope import Events
from apps.nowcast.verification.strata import estimates_of_parts, parse_kinds, strata, wet_shares
from data_tools.cli import UserError
from data_tools.quantities import VIL

COUNT = 5


def statistics(factor: float = 1.0, members: int = 3) -> Statistics:
    rows = []
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        truth = rng.gamma(0.3 * (number + 1), 60.0, (2, 18, 20)).clip(0, 254).astype(np.float32)
        noise = rng.uniform(1 - 0.5 * factor, 1 + 0.5 * factor, (members, 2, 18, 20))
        rows.append((f"e{number}", event_sums((truth * noise).clip(0, 254).astype(np.float32), truth, VIL)))
    return Statistics.stack(rows)


@pytest.fixture(scope="module")
def one() -> Statistics:
    return statistics()


def test_one_threshold_and_lead_is_the_count_by_hand(one: Statistics) -> None:
    hits, misses, false_alarms, correct = one.arrays["counts1"][:].sum(axis=0)[1, 2]
    found = curves(one, resamples(COUNT, 200), ["csi", "pod", "far", "bias", "hss"])
    at = {name: found[name].by_lead.value[1, 2] for name in found}
    assert at["csi"] == pytest.approx(hits / (hits + misses + false_alarms))
    assert at["pod"] == pytest.approx(hits / (hits + misses))
    assert at["far"] == pytest.approx(false_alarms / (hits + false_alarms))
    assert at["bias"] == pytest.approx((hits + false_alarms) / (hits + misses))
    total = hits + misses + false_alarms + correct
    chance = ((hits + misses) * (hits + false_alarms) + (correct + misses) * (correct + false_alarms)) / total
    assert at["hss"] == pytest.approx((hits + correct - chance) / (total - chance))


def test_together_they_are_the_table(one: Statistics) -> None:
    weights = Resamples(COUNT, 300)
    table, found = estimates(one, weights, METRICS), curves(one, weights)
    for name in ("crps", "crps_fair", "mae", "rmse_of_mean", "spread", "spread_skill", "outliers"):
        curve = found[name].all_leads
        assert (curve.value, curve.low, curve.high) == pytest.approx(
            (table[name].value, table[name].low, table[name].high)
        ), name
    for name in ("csi", "csi4", "csi16", "hss", "csi_of_mean"):
        assert np.nanmean(found[name].all_leads.value) == pytest.approx(table[name].value)


def test_a_window_of_one_pixel_is_the_overlap_of_counts(one: Statistics) -> None:
    found = curves(one, resamples(COUNT, 50), ["csi", "fss"])
    csi = found["csi"].by_lead.value
    np.testing.assert_allclose(found["fss"].by_lead.value[..., 0], 2 * csi / (1 + csi))


def test_intervals_are_percentiles_of_resampled_events(one: Statistics) -> None:
    weights = resamples(COUNT, 400, seed=3)
    curve = curves(one, weights, ["brier"])["brier"].all_leads
    table = one.arrays["exceedance"][:].sum(axis=1).astype(float)
    p = np.arange(4) / 3
    drawn = []
    for row in weights:
        summed = np.tensordot(row, table, axes=1)[1]
        drawn.append((summed[:, 0] @ p**2 + summed[:, 1] @ (1 - p) ** 2) / summed.sum())
    assert (curve.low[1], curve.high[1]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_differences_are_paired(one: Statistics) -> None:
    weights = resamples(COUNT, 300)
    same = curve_differences(one, one, weights, ["crps", "fss"])
    assert not np.nan_to_num(same["fss"].by_lead.high).any()
    worse = curve_differences(statistics(2.0), one, weights, ["crps"])["crps"]
    alone = [curves(each, weights, ["crps"])["crps"].all_leads for each in (statistics(2.0), one)]
    assert worse.all_leads.value == pytest.approx(float(alone[0].value - alone[1].value))
    assert worse.all_leads.low > 0
    assert worse.all_leads.high - worse.all_leads.low < alone[0].high - alone[0].low
    other = Statistics(tuple("abcde"), one.arrays)
    with pytest.raises(ValueError, match="same events"):
        curve_differences(other, one, weights, ["crps"])


def test_a_single_member_has_no_ensemble_scores() -> None:
    found = curves(statistics(members=1), resamples(COUNT, 20))
    for name in ("crps_fair", "spread", "brier_fair", "outliers"):
        assert np.isnan(found[name].all_leads.value).all()
    assert found["crps"].all_leads.value == found["mae"].all_leads.value


def test_the_page_tells_every_score() -> None:
    text = page()
    for name, score in SCORES.items():
        assert f"{name} ({score.form}; " in text
        assert score.dims[0] == "lead"
        assert all((score.formula, score.range, score.best, score.reference))
    forms = {name: SCORES[name].form for name in ("csi", "csi_of_mean", "fss_of_probability", "crps", "truth_spectrum")}
    assert list(forms.values()) == ["member", "mean", "probability", "ensemble", "truth"]


def test_parts_of_the_events(one: Statistics) -> None:
    times = ("2020-01-31T23:55:00", "2020-12-01", "2021-07-04T12:00:00", "NaT", "2019-10-01")
    events = Events(("e0", "e1", "e2", "e3", "e4"), ("b", "a", "b", "b", "a"), times, np.full(5, 5.0),
                    np.array([3.0, np.nan, 1.0, 2.0, 0.5]))  # fmt: skip
    shares = wet_shares(one)
    assert (np.diff(shares) > 0).all()
    found = {kind: {k: list(np.flatnonzero(v)) for k, v in strata(kind, events, one).items()}
             for kind in parse_kinds("source, season,wetness,motion")}  # fmt: skip
    assert found["source"] == {"a": [1, 4], "b": [0, 2, 3]}
    assert found["season"] == {"December to February": [0, 1], "June to August": [2], "September to November": [4]}
    assert found["wetness"] == {"driest third": [0, 1], "middle third": [2, 3], "wettest third": [4]}
    assert found["motion"] == {"slowest third": [2, 4], "middle third": [3], "fastest third": [0]}
    for text in ("elsewhere", " , "):
        with pytest.raises(UserError, match="--strata among"):
            parse_kinds(text)


def test_parts_are_scored_in_one_reading(one: Statistics) -> None:
    """As of the events of each part alone, however the parts interleave; no statistic is read twice."""
    reads: Counter[str] = Counter()

    class Read:
        def __init__(self, name: str, array: np.ndarray) -> None:
            self.name, self.array, self.shape = name, array, array.shape

        def __getitem__(self, key: Any) -> np.ndarray:
            reads[self.name] += 1
            return self.array[key]

    kept = {name: array for name, array in one.arrays.items() if np.isfinite(np.asarray(array)).all()}
    metrics = {name: METRICS[name] for name in ("csi", "hss", "crps", "rmse_of_mean", "outliers", "csi_of_mean")}
    chosen = [np.arange(COUNT) % 2 == 0, np.arange(COUNT) % 2 == 1, np.ones(COUNT, bool)]
    parts = [(each, Resamples(int(each.sum()), 40, 3)) for each in chosen]
    found = estimates_of_parts(
        Statistics(one.events, {name: Read(name, np.asarray(array)) for name, array in kept.items()}), parts, metrics
    )
    for (each, weights), part in zip(parts, found, strict=True):
        alone = estimates(Statistics(one.events, kept).where(each), weights, metrics)
        for name, wanted in alone.items():
            for end in ("value", "low", "high"):
                assert getattr(part[name], end) == pytest.approx(getattr(wanted, end), rel=1e-12), name
    assert set(reads.values()) == {1}


def test_parts_are_scored_alike_in_blocks(one: Statistics, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        (np.array([k in chosen for k in range(COUNT)]), np.ones((2, len(chosen)))) for chosen in ((0, COUNT - 1), (1,))
    ]
    metrics = {name: METRICS[name] for name in ("csi", "crps")}
    whole = estimates_of_parts(one, parts, metrics)
    monkeypatch.setattr("apps.nowcast.metrics.sums._BLOCK", 2)
    monkeypatch.setattr("apps.nowcast.verification.strata._MOST", 0)
    for before, after in zip(whole, estimates_of_parts(one, parts, metrics), strict=True):
        for name in metrics:
            assert after[name].value == pytest.approx(before[name].value, rel=1e-12)
