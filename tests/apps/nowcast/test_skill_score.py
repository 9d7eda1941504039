"""Contingency counts and scores: the SEVIR benchmark's numbers, brute force, and two other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from apps.nowcast.metrics import PREDIFF_EPS, SkillScore, counts, scores

SEVIR = (16.0, 74.0, 133.0, 160.0, 181.0, 219.0)


def benchmark_fields() -> tuple[np.ndarray, np.ndarray]:
    """Two smooth integer fields (2 sequences, 3 frames, 32, 32) whose counts are known: prediction, target."""
    n = np.arange(6144)
    target = np.floor(127.5 + 127.49 * np.sin(0.0031 * n) * np.cos(0.00017 * n))
    prediction = np.floor(127.5 + 127.49 * np.sin(0.0031 * n + 0.6) * np.cos(0.00017 * n + 0.1))
    assert (target.sum(), prediction.sum()) == (800829, 800924)
    return prediction.reshape(2, 3, 32, 32), target.reshape(2, 3, 32, 32)


BENCHMARK = {
    1: (
        [[5680, 3720, 2396, 1855, 1433, 513], [180, 538, 583, 597, 610, 407], [209, 638, 588, 509, 508, 372]],
        0.658783,
    ),
    4: ([[362, 255, 172, 137, 104, 40], [8, 29, 36, 40, 32, 24], [14, 40, 32, 24, 40, 32]], 0.689263),
    16: ([[24, 20, 17, 12, 12, 6], [0, 4, 0, 0, 0, 2], [0, 0, 1, 6, 4, 0]], 0.824069),
}


@pytest.mark.parametrize("pool", BENCHMARK)
@pytest.mark.parametrize("container", [np.asarray, torch.as_tensor])
def test_counts_of_the_sevir_benchmark(pool, container):
    prediction, target = benchmark_fields()
    score = SkillScore(thresholds=SEVIR, pool=pool, eps=PREDIFF_EPS)
    for event in range(2):
        score.update(container(prediction[event]), container(target[event]))
    expected, csi_mean = BENCHMARK[pool]
    assert score.counts[:, :3].T.tolist() == expected
    assert (score.counts.sum(axis=1) == 6144 // pool**2).all()
    assert score.compute()["csi_mean"] == pytest.approx(csi_mean, abs=5e-7)


def test_scores_of_the_sevir_benchmark():
    # The reference divides in float32, hence 1e-6.
    score = SkillScore(thresholds=list(SEVIR), eps=PREDIFF_EPS)
    score.update(*benchmark_fields())
    result = score.compute()
    assert result.csi == pytest.approx([0.935904, 0.759804, 0.671713, 0.626478, 0.561741, 0.397059], abs=1e-6)
    assert result["pod_mean"] == pytest.approx(0.777130, abs=5e-7)
    assert 1 - result["far_mean"] == pytest.approx(0.787281, abs=5e-7)
    assert result["bias_prediff_mean"] == pytest.approx(2.018343, abs=5e-7)


def test_scores_by_lead_time_of_the_sevir_benchmark():
    per_lead = scores(counts(*benchmark_fields(), SEVIR, keep=2).sum(axis=0), PREDIFF_EPS)
    assert per_lead["csi_mean"] == pytest.approx([0.678237, 0.553391, 0.676737], abs=5e-7)
    assert per_lead["csi_mean"].mean() == pytest.approx(0.636122, abs=5e-7)


def test_true_bias_of_a_perfect_forecast_is_one_and_the_published_code_says_otherwise():
    _, target = benchmark_fields()
    score = SkillScore(SEVIR)
    score.update(target, target)
    result = score.compute()
    for name in ("csi", "hss", "pod", "bias"):
        assert result[name] == pytest.approx(np.ones(6), abs=0)
    assert result.far == pytest.approx(np.zeros(6), abs=0)
    assert result.bias_prediff == pytest.approx(np.full(6, 1 / math.log(2) ** 2))


def brute_force(prediction, target, threshold):
    """Counts pixel by pixel."""
    table = [0, 0, 0, 0]
    for p, t in zip(prediction.ravel(), target.ravel(), strict=True):
        if math.isnan(p) or math.isnan(t):
            continue
        yes, seen = p >= threshold, t >= threshold
        table[0 if yes and seen else 1 if seen else 2 if yes else 3] += 1
    return table


FIELDS = arrays(
    np.float32, (3, 2, 4, 5), elements=st.sampled_from([0.0, 0.5, 0.7, 1.0, 1.5, 2.0, 9.0, -1.0, float("nan")])
)


@given(FIELDS, FIELDS)
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_brute_force_with_ties_and_missing_pixels(prediction, target):
    thresholds = [0.5, 0.7, 2.0]
    found = counts(prediction, target, thresholds)
    for event in range(3):
        for k, threshold in enumerate(np.float32(thresholds)):
            assert found[event, k].tolist() == brute_force(prediction[event], target[event], threshold)


@given(FIELDS, FIELDS, st.permutations(range(3)))
@settings(max_examples=40, deadline=None)
def test_counts_add_and_do_not_depend_on_the_order_of_events(prediction, target, order):
    whole = counts(prediction, target, [0.7, 1.5], pool=2)
    assert (counts(prediction[order], target[order], [0.7, 1.5], pool=2) == whole[order]).all()
    assert (counts(prediction, target, [0.7, 1.5], pool=2, keep=0) == whole.sum(axis=0)).all()
    assert (counts(prediction, target, [0.7, 1.5], pool=2, keep=2).sum(axis=1) == whole).all()
    score = SkillScore([0.7, 1.5], pool=2)
    for event in order:
        score.update(prediction[event], target[event])
    assert (score.counts == whole.sum(axis=0)).all()


def test_blocks_of_the_histogram_do_not_change_counts(monkeypatch):
    rng = np.random.default_rng(3)
    prediction, target = rng.gamma(0.5, 40, (2, 7, 3, 6, 5))
    expected = counts(prediction, target, SEVIR, keep=2)
    monkeypatch.setattr("apps.nowcast.metrics.contingency._BLOCK", 61)  # two rows of 30 pixels at a time
    assert (counts(prediction, target, SEVIR, keep=2) == expected).all()


def sample(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and target (4 events, 6, 7) of a kind that trips verification codes."""
    rng = np.random.default_rng(seed)
    prediction, target = rng.gamma(0.4, 3.0, (2, 4, 6, 7))
    if kind == "dry":
        return prediction * 0, target * 0
    if kind == "missing":
        prediction[rng.random(prediction.shape) < 0.2] = np.nan
        target[rng.random(target.shape) < 0.3] = np.nan
    if kind == "tied":
        return np.round(prediction * 2) / 2, np.round(target * 2) / 2
    return prediction, target


KINDS = ["random", "dry", "missing", "tied"]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_agree_with_the_scores_library(kind):
    import scores as library

    prediction, target = sample(kind, seed=1)
    ours = scores(counts(prediction, target, [0.5, 2.0], keep=0))
    for k, threshold in enumerate([0.5, 2.0]):
        table = library.categorical.ThresholdEventOperator(default_event_threshold=threshold).make_contingency_manager(
            xr.DataArray(prediction), xr.DataArray(target)
        )
        theirs = {
            "csi": table.critical_success_index(),
            "hss": table.heidke_skill_score(),
            "pod": table.probability_of_detection(),
            "far": table.false_alarm_ratio(),
            "bias": table.frequency_bias(),
        }
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name][k], float(value.values), rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_agree_with_xskillscore(kind):
    import xskillscore

    prediction, target = sample(kind, seed=2)
    keep = ~(np.isnan(prediction) | np.isnan(target))
    threshold = 1.0
    ours = scores(counts(prediction, target, [threshold], keep=0))
    # xskillscore's category edges are open below, so ties at the threshold need the next smaller number.
    edges = np.array([-np.inf, np.nextafter(threshold, 0), np.inf])
    table = xskillscore.Contingency(
        xr.DataArray(target[keep], dims="pixel"),
        xr.DataArray(prediction[keep], dims="pixel"),
        edges,
        edges,
        dim="pixel",
    )
    theirs = {
        "csi": table.threat_score(),
        "hss": table.heidke_score(),
        "pod": table.hit_rate(),
        "far": table.false_alarm_ratio(),
        "bias": table.bias_score(),
    }
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name][0], float(value.values), rtol=1e-12, err_msg=name)


def test_missing_pixels_are_no_correct_negatives_but_leave_csi_alone():
    prediction, target = sample("random", seed=4)
    hidden = target.copy()
    hidden[target < 0.1] = np.nan  # hides correct negatives and false alarms of dry pixels alone
    quiet = np.where(target < 0.1, 0.0, prediction)
    seen, part = scores(counts(quiet, target, [1.0], keep=0)), scores(counts(quiet, hidden, [1.0], keep=0))
    assert part.csi == pytest.approx(seen.csi, abs=0)
    assert part.hss < seen.hss


def test_undefined_scores_are_nan_and_left_out_of_means():
    score = SkillScore([1.0, 5.0])
    score.update(np.array([[2.0, 0.0, 2.0]]), np.array([[2.0, 2.0, 0.0]]))
    result = score.compute()
    assert result.csi[0] == pytest.approx(1 / 3)
    assert np.isnan([result.csi[1], result.hss[1], result.pod[1], result.far[1], result.bias[1]]).all()
    assert result["csi_mean"] == result.csi[0]
    assert np.isnan(SkillScore([1.0]).compute()["hss_mean"])


def test_pooling_is_max_pooling():
    rng = np.random.default_rng(5)
    prediction, target = torch.from_numpy(rng.gamma(0.3, 30.0, (2, 3, 11, 14)))
    pooled = [torch.nn.functional.max_pool2d(field, kernel_size=4, stride=4) for field in (prediction, target)]
    assert pooled[0].shape == (3, 2, 3)
    assert (counts(prediction, target, [16, 74], pool=4) == counts(*pooled, [16, 74])).all()


def test_pooling_takes_the_pixels_that_both_fields_have():
    prediction, target = np.zeros((2, 4, 8))
    prediction[0, 0] = 9.0  # where the truth is missing: no false alarm
    target[0, 0] = np.nan
    target[:, 4:] = np.nan  # a block without truth counts as nothing
    assert counts(prediction, target, [1.0], pool=4, keep=0).tolist() == [[0, 0, 0, 1]]


def test_a_stored_rate_reaches_a_threshold_of_its_own_decimal_value():
    rate = np.full((1, 2, 3), 0.7, np.float32)
    assert float(rate[0, 0, 0]) < 0.7
    assert counts(rate, rate, [0.7])[0, 0].tolist() == [6, 0, 0, 0]


def test_half_precision_and_integer_fields_are_counted():
    codes = torch.tensor([[[0, 16, 255], [74, 15, 73]]])
    expected = counts(codes.double(), codes.double(), SEVIR)
    for dtype in (torch.uint8, torch.bfloat16, torch.float16):
        assert (counts(codes.to(dtype), codes.to(dtype), SEVIR) == expected).all()


@pytest.mark.parametrize(
    ("shapes", "thresholds", "pool", "message"),
    [
        (((2, 3, 4), (2, 3, 5)), [1.0], 1, "one shape"),
        (((3, 4), (3, 4)), [1.0], 1, "leading axes"),
        (((2, 3, 4), (2, 3, 4)), [2.0, 1.0], 1, "ascending"),
        (((2, 3, 4), (2, 3, 4)), [], 1, "ascending"),
        (((2, 3, 4), (2, 3, 4)), [1.0], 4, "smaller side 3"),
        (((2, 3, 4), (2, 3, 4)), [1.0], 0, "between 1 and"),
    ],
)
def test_what_does_not_fit_is_refused(shapes, thresholds, pool, message):
    with pytest.raises(ValueError, match=message):
        counts(np.zeros(shapes[0]), np.zeros(shapes[1]), thresholds, pool)


def test_scores_are_a_mapping():
    score = SkillScore([1.0])
    score.update(np.ones((2, 3)), np.ones((2, 3)))
    result = dict(score.compute())
    assert result["csi"] == 1.0
    assert {"csi", "hss", "pod", "far", "bias", "bias_prediff", "csi_mean"} <= set(result)
    with pytest.raises(KeyError):
        score.compute()["ets"]
