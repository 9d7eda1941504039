"""Fréchet distance against matrix roots, precision and recall against a count over all pairs, moments by parts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from apps.imagegen.metrics import (
    Gaussian,
    Moments,
    frechet_distance,
    load_moments,
    precision_recall,
    save_moments,
)
from core.intervals import student_mean
from data_tools.cli import UserError


def drawn(count: int, dim: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    """Correlated features (count, dim) with unequal spreads, away from zero."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    spread = torch.logspace(-2, 0.5, dim, dtype=torch.float64)
    return scale * (torch.randn(count, dim, generator=generator, dtype=torch.float64) * spread) @ mix + 3.0


def brute_force(a: torch.Tensor, b: torch.Tensor) -> float:
    """The distance of features (n, d) by its formula, with scipy's general matrix root."""
    x, y = a.numpy(), b.numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * np.real(sqrtm(s @ t))))


@pytest.mark.parametrize(("count", "other", "dim"), [(1200, 1500, 23), (1000, 1300, 64), (90, 70, 7)])
def test_the_distance_is_that_of_the_matrix_root(count: int, other: int, dim: int) -> None:
    a, b = drawn(count, dim, 0), drawn(other, dim, 1, scale=1.2)
    found = frechet_distance(Moments.of(a), Moments.of(b))
    assert found > 0.1
    assert found == pytest.approx(brute_force(a, b), rel=1e-8)  # scipy's root loses digits, see below


def test_the_distance_is_exact_where_the_general_root_is_not() -> None:
    mp = pytest.importorskip("mpmath").mp.clone()
    mp.dps = 40
    first, second = Moments.of(drawn(200, 12, 0)), Moments.of(drawn(300, 12, 1, scale=1.2))
    one, two = (mp.matrix(moments.covariance.tolist()) for moments in (first, second))
    values, vectors = mp.eigsy(one)
    root = vectors * mp.diag([mp.sqrt(value) for value in values]) * vectors.T
    cross = sum(mp.sqrt(value) for value in mp.eigsy(root * two * root, eigvals_only=True))
    shift = [mp.mpf(a) - mp.mpf(b) for a, b in zip(first.mean.tolist(), second.mean.tolist(), strict=True)]
    expected = sum(x * x for x in shift) + sum(one[i, i] + two[i, i] for i in range(12)) - 2 * cross
    assert frechet_distance(first, second) == pytest.approx(float(expected), rel=1e-13)


def test_the_distance_of_commuting_gaussians_is_known() -> None:
    generator = torch.Generator().manual_seed(2)
    basis = torch.linalg.qr(torch.randn(31, 31, generator=generator, dtype=torch.float64))[0]
    first, second = (torch.rand(31, generator=generator, dtype=torch.float64) for _ in range(2))
    first[:4] = second[2:6] = 0.0  # ranks that are not full, in other directions
    mean = torch.randn(31, generator=generator, dtype=torch.float64)
    one = Gaussian(mean, (basis * first) @ basis.T)
    two = Gaussian(mean + 0.5, (basis * second) @ basis.T)
    expected = 31 * 0.25 + float((first.sqrt() - second.sqrt()).square().sum())
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-6)  # roots of zeros are not exact


def test_the_distance_is_symmetric_zero_for_equals_and_blind_to_rotation_and_shift() -> None:
    a, b = drawn(400, 19, 3), drawn(350, 19, 4, scale=1.4)
    there = frechet_distance(Moments.of(a), Moments.of(b))
    assert frechet_distance(Moments.of(b), Moments.of(a)) == pytest.approx(there, rel=1e-10)
    assert frechet_distance(Moments.of(a), Moments.of(a.flip(0))) < 1e-6
    turn = torch.linalg.qr(drawn(19, 19, 5))[0]
    turned = frechet_distance(Moments.of(a @ turn + 7), Moments.of(b @ turn + 7))
    assert turned == pytest.approx(there, rel=1e-8)
    assert frechet_distance(Moments.of(3 * a), Moments.of(3 * b)) == pytest.approx(9 * there, rel=1e-8)


def test_few_samples_of_many_features_have_a_finite_distance_that_more_samples_lower() -> None:
    def within(count: int) -> float:
        return frechet_distance(
            Moments.of(drawn(2 * count, 40, 6)[:count]), Moments.of(drawn(2 * count, 40, 6)[count:])
        )

    few, many = within(20), within(4000)
    assert math.isfinite(few)
    assert 0 <= many < few


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 10_000))
def test_moments_do_not_depend_on_how_features_are_cut(sizes: list[int], seed: int) -> None:
    features = drawn(sum(sizes), 5, seed) + 1e4  # a large mean: sums of squares would cancel
    merged = Moments.empty(5)
    for part in features.split(sizes):
        merged = merged.merge(Moments.of(part))
    assert merged.count == sum(sizes)
    torch.testing.assert_close(merged.mean, features.mean(0), rtol=1e-12, atol=0)
    if merged.count > 1:
        torch.testing.assert_close(merged.covariance, features.T.cov(), rtol=1e-7, atol=1e-9)
    backwards = Moments.empty(5)
    for part in reversed(features.split(sizes)):
        backwards = Moments.of(part).merge(backwards)
    torch.testing.assert_close(backwards.scatter, merged.scatter, rtol=1e-7, atol=1e-8)


def test_precision_and_recall_count_balls() -> None:
    real, fake = drawn(61, 6, 7), drawn(47, 6, 8, scale=1.3)

    def inside(points: torch.Tensor, centres: torch.Tensor, k: int) -> float:
        radii = [sorted(float((c - other).norm()) for other in centres)[k] for c in centres]  # [0] is the point itself
        hits = [any(float((p - c).norm()) <= r for c, r in zip(centres, radii, strict=True)) for p in points]
        return sum(hits) / len(hits)

    for k in (1, 3):
        found = precision_recall(real, fake, k)
        assert found.precision == pytest.approx(inside(fake, real, k))
        assert found.recall == pytest.approx(inside(real, fake, k))
        assert 0 < found.precision < 1 or 0 < found.recall < 1


def test_precision_and_recall_at_their_limits() -> None:
    real = drawn(1500, 4, 9)  # more rows than are in memory at once
    assert precision_recall(real, real.flip(0)) == (1.0, 1.0)
    assert precision_recall(real, real + 1000) == (0.0, 0.0)
    collapsed = real[:1].expand(10, -1)
    assert precision_recall(real, collapsed).precision == 1.0
    assert precision_recall(real, collapsed).recall == pytest.approx(1 / 1500)
    turned = precision_recall(-2 * real, -2 * drawn(200, 4, 10))
    assert turned == precision_recall(real, drawn(200, 4, 10))


def test_what_cannot_be_measured_is_refused() -> None:
    good = drawn(10, 3, 0)
    for call in (
        lambda: Moments.of(good[:0]),
        lambda: Moments.of(good[:1]).covariance,
        lambda: Moments.of(torch.full((4, 3), torch.nan)),
        lambda: Moments.of(good).merge(Moments.of(drawn(10, 4, 0))),
        lambda: frechet_distance(Moments.of(good), Moments.of(drawn(10, 4, 0))),
        lambda: frechet_distance(Moments.of(good), Gaussian(good[0] * torch.inf, torch.eye(3))),
        lambda: precision_recall(good[:3], good),
        lambda: precision_recall(good, drawn(10, 4, 0)),
        lambda: student_mean(good[:1, 0]),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()


def test_reference_statistics_come_back_and_foreign_ones_are_refused(tmp_path: Path) -> None:
    moments = Moments.of(drawn(30, 3, 11))
    path = save_moments(tmp_path / "reference.npz", moments, "a network")
    back = load_moments(path, "a network", 3)
    assert torch.equal(back.mean, moments.mean)
    assert torch.equal(back.covariance, moments.covariance)
    with pytest.raises(UserError, match="those of a network"):
        load_moments(path, "another network", 3)
    published = tmp_path / "published.npz"
    np.savez(published, mu=np.zeros(3, np.float32), sigma=np.eye(3, dtype=np.float32))
    assert load_moments(published, "any", 3).covariance.dtype == torch.float64
    for content, message in (
        ({"mu": np.zeros(3)}, "mu and sigma"),
        ({"mu": np.zeros(4), "sigma": np.eye(4)}, r"\(3,\)"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "finite"),
        ({"mu": np.array([print] * 3), "sigma": np.eye(3)}, "plain arrays"),
    ):
        np.savez(published, allow_pickle=True, **content)
        with pytest.raises(UserError, match=message):
            load_moments(published, "any", 3)
    with pytest.raises(UserError, match="no file"):
        load_moments(tmp_path / "absent.npz", "any", 3)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="npz"):
        load_moments(path, "a network", 3)


def test_students_interval_covers_as_often_as_it_says() -> None:
    repetitions = torch.randn(4000, 3, generator=torch.Generator().manual_seed(12), dtype=torch.float64) + 5
    intervals = [student_mean(row) for row in repetitions]
    covered = sum(low <= 5 <= high for _, low, high in intervals) / len(intervals)
    assert 0.935 < covered < 0.965
    first = student_mean(torch.tensor([1.0, 2.0, 3.0]))
    assert first == pytest.approx((2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-6)
