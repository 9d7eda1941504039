"""CRPS against the double sum, `scores`, `xskillscore`, and a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

from apps.nowcast.metrics import crps


def double_sum(members, target, fair):
    """The definition, one pair of members at a time."""
    n = len(members)
    error = sum(abs(member - target) for member in members) / n
    spread = sum(abs(a - b) for a in members for b in members)
    return error - spread / (2 * n * (n - 1 if fair else n))


def sample(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Members (7, 3, 4, 5) and target (3, 4, 5)."""
    rng = np.random.default_rng(0)
    members, target = rng.gamma(0.4, 0.2, (7, 3, 4, 5)), rng.gamma(0.4, 0.2, (3, 4, 5))
    if kind == "dry":
        return members * 0, target * 0
    if kind == "missing":
        hole = rng.random(target.shape) < 0.3
        return np.where(hole, np.nan, members), np.where(hole, np.nan, target)
    if kind == "tied":
        return np.round(members * 10) / 10, np.round(target * 10) / 10
    return members, target


KINDS = ["random", "dry", "missing", "tied"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimate", ["ecdf", "fair"])
def test_agrees_with_the_double_sum_and_the_scores_library(kind, estimate):
    from scores.probability import crps_for_ensemble

    members, target = sample(kind)
    ours = crps(members, target, estimate)
    np.testing.assert_allclose(ours, double_sum(members, target, estimate == "fair"), atol=1e-14)
    dims = ["member", "time", "y", "x"]
    theirs = crps_for_ensemble(
        xr.DataArray(members, dims=dims), xr.DataArray(target, dims=dims[1:]), "member", method=estimate,
        preserve_dims="all",
    )  # fmt: skip
    np.testing.assert_allclose(ours, theirs.values, atol=1e-14)


@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")  # theirs, where all members are missing
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_xskillscore(kind):
    import xskillscore

    members, target = sample(kind)
    dims = ["member", "time", "y", "x"]
    theirs = xskillscore.crps_ensemble(
        xr.DataArray(target, dims=dims[1:]), xr.DataArray(members, dims=dims), member_dim="member", dim=[]
    )
    np.testing.assert_allclose(crps(members, target), theirs.values, atol=1e-14)


def test_ties_with_a_dry_observation_are_counted():
    # Implementations with strict inequalities drop such intervals and give 0 here.
    assert crps(np.array([[0.0], [0.0], [3.0]]), np.array([0.0])) == pytest.approx([1 / 3], abs=1e-15)


def test_one_member_has_its_absolute_error_and_no_fair_score():
    members, target = sample("random")
    np.testing.assert_array_equal(crps(members[:1], target), np.abs(members[0] - target))
    with pytest.raises(ValueError, match="at least two members"):
        crps(members[:1], target, "fair")


def test_fair_score_does_not_depend_on_the_number_of_members():
    # Standard normal members and observation 0: CRPS = (sqrt(2) - 1) / sqrt(pi) (Gneiting and Raftery 2007).
    rng = np.random.default_rng(1)
    exact = (math.sqrt(2) - 1) / math.sqrt(math.pi)
    observed = np.zeros(400_000)
    two, five = rng.normal(size=(2, 400_000)), rng.normal(size=(5, 400_000))
    assert crps(two, observed, "fair").mean() == pytest.approx(exact, abs=0.005)
    assert crps(five, observed, "fair").mean() == pytest.approx(exact, abs=0.003)
    assert crps(two, observed, "ecdf").mean() == pytest.approx(exact + 1 / (2 * math.sqrt(math.pi)), abs=0.005)


def test_order_of_members_does_not_matter_and_tensors_are_taken():
    members, target = sample("random")
    np.testing.assert_allclose(crps(members[::-1], target), crps(members, target), atol=1e-15)
    np.testing.assert_array_equal(crps(torch.from_numpy(members), torch.from_numpy(target)), crps(members, target))


def test_a_missing_member_makes_the_pixel_missing():
    members, target = sample("random")
    members[3, 1, 2, 4] = np.nan
    missing = np.isnan(crps(members, target, "fair"))
    assert missing.sum() == 1
    assert missing[1, 2, 4]


@pytest.mark.parametrize("shape", [(3, 4, 6), (7, 3, 4, 5), (3, 4)])
def test_shapes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"members \(n, \*field\)"):
        crps(np.zeros((7, 3, 4, 5)), np.zeros(shape))
