"""CRPS and ranks, which sort or compare members row by row, against np.sort, properscoring and scores."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import xarray as xr

from apps.nowcast.metrics import crps, crps_terms, rank_counts, rank_frequencies
from apps.nowcast.metrics.crps import _network, _sorted


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 8, 10, 20, 33, 50, 64])
def test_the_network_sorts(n: int) -> None:
    rng = np.random.default_rng(n)
    values = np.concatenate([rng.random((n, 300)), rng.integers(0, 3, (n, 300))], axis=1)
    np.testing.assert_array_equal(np.stack(_sorted(values.copy())), np.sort(values, axis=0))


@pytest.mark.parametrize("n", [4, 9])
def test_the_network_sorts_all_zeros_and_ones_and_so_everything(n: int) -> None:
    """A network that sorts all fields of zeros and ones sorts all (Knuth, 5.3.4, theorem Z)."""
    codes = (np.arange(2**n)[None] >> np.arange(n)[:, None] & 1).astype(float)
    np.testing.assert_array_equal(np.stack(_sorted(codes.copy())), np.sort(codes, axis=0))
    assert all(low < high for low, high in _network(n))


def test_more_pixels_than_a_block_and_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    members, truth = rng.gamma(0.4, 90.0, (5, 3, 40, 50)), rng.gamma(0.4, 90.0, (3, 40, 50))
    whole = crps(members, truth)
    monkeypatch.setattr(importlib.import_module("apps.nowcast.metrics.crps"), "_BLOCK", 77)  # not the function
    np.testing.assert_array_equal(crps(members, truth), whole)
    single = crps(members.astype(np.float32), truth.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, whole, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["random", "dry", "tied", "missing"])
def test_crps_agrees_with_properscoring(kind: str) -> None:
    properscoring = pytest.importorskip("properscoring", reason="properscoring is not installed")
    rng = np.random.default_rng(1)
    members, truth = rng.gamma(0.4, 0.2, (6, 30, 41)), rng.gamma(0.4, 0.2, (30, 41))
    if kind == "dry":
        members, truth = members * 0, truth * 0
    elif kind == "tied":
        members, truth = np.round(members * 5) / 5, np.round(truth * 5) / 5
    elif kind == "missing":
        truth[rng.random(truth.shape) < 0.3] = np.nan
    np.testing.assert_allclose(
        crps(members, truth), properscoring.crps_ensemble(truth, members, axis=0), atol=1e-6, rtol=0
    )
    error, spread = crps_terms(members, truth)
    np.testing.assert_allclose(error - spread * 6 / 5, crps(members, truth, "fair"), atol=1e-15)


@pytest.mark.parametrize("kind", ["random", "tied", "missing"])
def test_ranks_agree_with_the_scores_library(kind: str) -> None:
    from scores.probability import rank_histogram

    rng = np.random.default_rng(2)
    members, truth = rng.gamma(0.4, 0.2, (4, 3, 20, 31)) + 1e-9, rng.gamma(0.4, 0.2, (3, 20, 31)) + 1e-9
    if kind == "tied":
        members, truth = np.ceil(members * 5), np.ceil(truth * 5)
    elif kind == "missing":
        truth[rng.random(truth.shape) < 0.3] = np.nan
    dims = ["member", "time", "y", "x"]
    theirs = rank_histogram(xr.DataArray(members, dims=dims), xr.DataArray(truth, dims=dims[1:]), "member")
    np.testing.assert_allclose(rank_frequencies(rank_counts(members, truth, 0.0)), theirs.values, atol=1e-6)


def test_ranks_of_many_pixels_and_members(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    members, truth = rng.integers(0, 9, (300, 2, 6, 7)) * 1.0, rng.integers(0, 9, (2, 6, 7)) * 1.0
    counts = rank_counts(members, truth, 1.0)
    monkeypatch.setattr("apps.nowcast.metrics.ranks._BLOCK", 5)
    np.testing.assert_allclose(rank_counts(members, truth, 1.0), counts, atol=1e-12)
    for lead in range(2):
        assert counts[lead].sum() == pytest.approx(((truth[lead] >= 1) | (members[:, lead] >= 1).any(axis=0)).sum())
