"""Bootstrap weights: those of one call, in blocks, for clusters, for more events than are drawn at once."""

from __future__ import annotations

import numpy as np
import pytest

from apps.nowcast.metrics import Resamples, Statistics, resamples


def test_they_are_those_of_one_call() -> None:
    np.testing.assert_array_equal(Resamples(37, 150, seed=5)[:, :], resamples(37, 150, seed=5))
    np.testing.assert_array_equal(Resamples(37, 150, seed=5)[:, 9:20], resamples(37, 150, seed=5)[:, 9:20])


def test_events_of_a_label_are_drawn_together() -> None:
    labels = ["a", "b", "a", "c", "b"]
    weights, units = Resamples(5, 40, 1, labels)[:, :], resamples(3, 40, 1)
    np.testing.assert_array_equal(weights, units[:, [0, 1, 0, 2, 1]])
    statistics = Statistics(tuple(range(5)), {"value": np.arange(10.0).reshape(5, 2)})
    grouped = statistics.grouped(labels).resampled(units)["value"]
    np.testing.assert_allclose(statistics.resampled(Resamples(5, 40, 1, labels))["value"], grouped)


def test_many_events_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.nowcast.metrics.resampling.WHOLE", 50)
    monkeypatch.setattr("apps.nowcast.metrics.resampling._BLOCK", 16)
    weights = Resamples(100, 4000, seed=2)
    whole = weights[:, :]
    np.testing.assert_array_equal(whole.sum(axis=1), 100)
    np.testing.assert_array_equal(np.concatenate([weights[:, a : a + 30] for a in range(0, 100, 30)], axis=1), whole)
    # multinomial: mean 1, variance 1 - 1 / n, covariance -1 / n
    np.testing.assert_allclose(whole.mean(axis=0), 1.0, atol=0.08)
    np.testing.assert_allclose(whole.var(axis=0), 0.99, atol=0.15)
    covariance = np.cov(whole.T)
    assert covariance[~np.eye(100, dtype=bool)].mean() == pytest.approx(-0.01, abs=0.001)
    clustered = Resamples(200, 300, 2, [number % 100 for number in range(200)])
    np.testing.assert_array_equal(clustered[:, 100:], clustered[:, :100])


def test_sums_in_blocks_and_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 9, (23, 2, 3))
    statistics = Statistics(tuple(range(23)), {"n": array})
    weights = Resamples(23, 60, 3)
    expected = np.tensordot(resamples(23, 60, 3), array, axes=1)
    monkeypatch.setattr("apps.nowcast.metrics.sums._BLOCK", 5)
    np.testing.assert_array_equal(statistics.total()["n"], array.sum(axis=0))
    np.testing.assert_array_equal(statistics.resampled(weights)["n"], expected)
    chosen = np.isin(np.arange(23), [3, 4, 9, 15, 16, 22])
    part = statistics.where(chosen)
    np.testing.assert_array_equal(part.total()["n"], array[chosen].sum(axis=0))
    assert part.events == tuple(np.flatnonzero(chosen))
    np.testing.assert_array_equal(part.where(np.arange(len(part.events)) > 1).per_event("n"), array[chosen][2:])


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="one label per event"):
        Resamples(3, 5, 0, ["a"])
    with pytest.raises(ValueError, match="at least one event"):
        Resamples(0, 5)
