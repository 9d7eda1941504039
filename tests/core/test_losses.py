"""Endpoint distances against brute force and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.losses import MAE, MSE, EnsembleMean, FairCRPS, FeatureDistance, PerMember, Pooled, WeightedSum, pool


def brute_force_crps(members: np.ndarray, reference: np.ndarray) -> float:
    count = members.shape[1]
    error = np.mean([np.abs(members[:, i] - reference) for i in range(count)])
    pairs = [np.abs(members[:, i] - members[:, j]) for i, j in itertools.permutations(range(count), 2)]
    return float(error - np.sum([p.mean() for p in pairs]) / (2 * count * (count - 1)))


@settings(max_examples=30, deadline=None)
@given(members=st.integers(2, 6), seed=st.integers(0, 1000), ties=st.booleans())
def test_fair_crps_is_the_sum_over_pairs(members: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(3, members, 4, 5)), rng.normal(size=(3, 4, 5))
    if ties:
        x, y = x.round(), y.round()
    got = FairCRPS()(torch.from_numpy(x), torch.from_numpy(y)).item()
    assert got == pytest.approx(brute_force_crps(x, y), abs=1e-12)


def test_fair_crps_of_the_true_distribution_is_no_worse_than_of_a_narrowed_one() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(20000, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(20000, generator=generator, dtype=torch.float64)
    assert FairCRPS()(x, y) < FairCRPS()(0.6 * x, y) - 0.01
    assert FairCRPS()(x, y).item() == pytest.approx(1 / np.sqrt(np.pi), abs=0.01)  # CRPS of N(0, 1) against itself


def test_pooled_crps_is_the_crps_of_pooled_fields() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 3, 6, 8, generator=generator), torch.rand(2, 6, 8, generator=generator)
    expected = brute_force_crps(
        x.numpy().reshape(2, 3, 3, 2, 4, 2).max((3, 5)), y.numpy().reshape(2, 3, 2, 4, 2).max((2, 4))
    )
    assert Pooled(FairCRPS(), 2)(x, y).item() == pytest.approx(expected, abs=1e-6)


def test_pool_keeps_the_remainder_at_the_edge() -> None:
    field = torch.arange(15.0).view(3, 5)
    assert pool(field, 2).tolist() == [[6, 8, 9], [11, 13, 14]]
    assert pool(field, 2, "mean").tolist() == [[3, 5, 6.5], [10.5, 12.5, 14]]
    assert pool(field.expand(2, 7, 3, 5), 2).shape == (2, 7, 2, 3)


def test_per_member_and_ensemble_mean() -> None:
    y = torch.zeros(2, 3)
    x = torch.stack([y + 1, y - 3], dim=1)
    assert PerMember(MSE())(x, y).item() == 5
    assert EnsembleMean(MSE())(x, y).item() == 1
    assert PerMember(MAE())(x, y).item() == 2
    total = WeightedSum(((1.0, PerMember(MSE())), (0.5, FairCRPS())))
    assert total(x, y).item() == 5 + 0.5 * (2 - 4 / 2)
    assert total.name == "1 per-member(mse) + 0.5 fair-crps"


def two_layers(images: Tensor) -> list[Tensor]:
    return [images, images.flatten(1)[:, :2]]


def test_feature_distance_by_hand() -> None:
    a = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    b = torch.tensor([4.0, 3.0]).view(1, 2, 1, 1)
    plain = FeatureDistance(two_layers, "two", weights=(2.0, 0.0), normalised=False)
    assert plain(a, b).item() == pytest.approx(2 * 1.0)
    normalised = FeatureDistance(two_layers, "two", weights=(1.0, 0.0))
    assert normalised(a, b).item() == pytest.approx(2 * 0.2**2)
    assert normalised(10 * a, b).item() == pytest.approx(2 * 0.2**2)  # blind to amplitude
    assert FeatureDistance(two_layers, "two")(a, b).item() == pytest.approx(2 * 0.2**2)  # equal weights of sum 1
    assert normalised.name == "features(two,normalised,weights=[1.0, 0.0])"


def test_feature_distance_has_a_finite_gradient_on_empty_fields() -> None:
    network = nn.Conv2d(1, 3, 3, bias=False).requires_grad_(False)
    x = torch.zeros(2, 4, 5, 6, requires_grad=True)
    distance = FeatureDistance(lambda images: [network(images)], "conv", as_images=lambda f: f.flatten(0, 1)[:, None])
    distance(x, torch.ones(2, 4, 5, 6)).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MSE()(torch.zeros(2, 3), torch.zeros(2, 1)), r"reference's shape \(2, 1\), got \(2, 3\)"),
        (lambda: FairCRPS()(torch.zeros(2, 1, 3), torch.zeros(2, 3)), "at least 2 members"),
        (lambda: FairCRPS()(torch.zeros(2, 3), torch.zeros(2, 3)), "members"),
        (lambda: WeightedSum(()), "at least one term"),
        (
            lambda: FeatureDistance(two_layers, "two", weights=(1.0,))(torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1)),
            "2 layer weights",
        ),
    ],
)
def test_misuse_is_named(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
