"""The rank histogram against one made by hand, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest

from apps.nowcast.metrics import (
    METRICS,
    Statistics,
    event_statistics,
    outliers,
    rank_counts,
    rank_frequencies,
    resamples,
)
from apps.nowcast.metrics.bootstrap import estimates
from data_tools.quantities import QUANTITIES

RATE = QUANTITIES["rainfall_rate"]


def by_hand(members: np.ndarray, truth: np.ndarray, lowest: float) -> np.ndarray:
    """Pixel by pixel: every order that ties allow, each as likely."""
    n, leads = members.shape[:2]
    counts = np.zeros((leads, n + 1))
    for lead, y, x in np.ndindex(truth.shape):
        observed, forecast = truth[lead, y, x], members[:, lead, y, x]
        if np.isnan(observed) or max(observed, *forecast) < lowest:
            continue
        code = [value if value >= lowest else -1.0 for value in (observed, *forecast)]
        low = len([value for value in code[1:] if value < code[0]])
        high = low + len([value for value in code[1:] if value == code[0]])
        for rank in range(low, high + 1):
            counts[lead, rank] += 1 / (high - low + 1)
    return counts


def fields(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Members (n, 2, 7, 5) and truth (2, 7, 5) of few values, so that they tie; some pixels missing."""
    rng = np.random.default_rng(seed)
    members = rng.integers(0, 5, (n, 2, 7, 5)).astype(np.float32)
    truth = rng.integers(0, 5, (2, 7, 5)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.1] = np.nan
    return members, truth


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("lowest", [0.5, 2.0, 3.5])
def test_it_counts_as_by_hand(n: int, lowest: float) -> None:
    members, truth = fields(n)
    np.testing.assert_allclose(rank_counts(members, truth, lowest), by_hand(members, truth, lowest), atol=1e-12)


def test_the_order_of_members_does_not_matter_and_their_mirror_mirrors_it() -> None:
    members, truth = fields(4)
    counts = rank_counts(members, truth, 0.0)
    np.testing.assert_allclose(rank_counts(members[[2, 0, 3, 1]], truth, 0.0), counts, atol=1e-12)
    np.testing.assert_allclose(rank_counts(9 - members, 9 - truth, 0.0), counts[:, ::-1], atol=1e-12)


def test_a_calibrated_ensemble_is_flat_also_where_most_is_dry_and_tied() -> None:
    rng = np.random.default_rng(1)
    drawn = np.maximum(rng.normal(-1.0, 1.0, (4, 1, 300, 300)), 0.0)  # 84 % dry
    drawn += 0.04 * (rng.random(drawn.shape) < 0.5)  # drizzle below the lowest threshold
    frequencies = rank_frequencies(rank_counts(drawn[1:], drawn[0], 0.1))
    np.testing.assert_allclose(frequencies, 0.25, atol=0.01)
    assert outliers(rank_counts(drawn[1:], drawn[0], 0.1)) == pytest.approx(1.0, abs=0.02)


def test_members_too_alike_make_outliers_and_too_spread_ones_few() -> None:
    rng = np.random.default_rng(2)
    truth, members = 5 + rng.normal(0, 1, (1, 90, 80)), 5 + rng.normal(0, 1, (3, 1, 90, 80))
    alike, spread = (rank_counts(5 + factor * (members - 5), truth, 0.0) for factor in (0.3, 3.0))
    assert outliers(alike) > 1.4
    assert outliers(spread) < 0.7
    high = rank_frequencies(rank_counts(members + 2, truth, 0.0))
    assert high[0] > 0.6 > 0.1 > high[-1]  # the truth lies below members that are too high


def test_what_has_no_value_is_nan() -> None:
    dry = rank_counts(np.zeros((3, 2, 4, 5)), np.zeros((2, 4, 5)), 0.1)
    assert dry.shape == (2, 4)
    assert not dry.any()
    assert np.isnan(rank_frequencies(dry)).all()
    assert np.isnan(outliers(dry))
    assert np.isnan(outliers(rank_counts(*fields(1), 0.5)))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected members"):
        rank_counts(np.zeros((3, 4, 5)), np.zeros((4, 6)), 0.1)


def test_statistics_of_events_hold_ranks_spread_and_error_that_add_up() -> None:
    rng = np.random.default_rng(3)
    rows = []
    for event in range(6):
        truth = rng.gamma(0.5, 4.0, (2, 18, 20)).astype(np.float32)
        truth[:, 0, 0] = np.nan
        forecast = rng.gamma(0.5, 4.0, (3, 2, 18, 20)).astype(np.float32)
        rows.append((event, event_statistics(forecast, truth, RATE)))
    statistics = Statistics.stack(rows)
    assert statistics.arrays["ranks"].shape == (6, 2, 4)
    scores = estimates(statistics, resamples(6, 400), METRICS)
    assert scores["spread_skill"].value == pytest.approx(scores["spread"].value / scores["rmse_of_mean"].value)
    for name in ("spread_skill", "outliers"):
        assert scores[name].low <= scores[name].value <= scores[name].high
        assert scores[name].value == pytest.approx(1.0, abs=0.15)  # draws of one distribution
    total = statistics.total()["ranks"].sum()
    wet = sum(float(row["ranks"].sum()) for _, row in rows)
    assert total == pytest.approx(wet)
