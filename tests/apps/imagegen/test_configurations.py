"""Architectures by name: those of the published checkpoints and our own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from apps.imagegen.models import ARCHITECTURES, find_architecture
from apps.imagegen.models.configurations import read_architecture
from data_tools.cli import UserError

PARAMETERS = {
    "cifar10-32x32-uncond-vp": 55_733_891,
    "cifar10-32x32-cond-vp": 55_735_299,
    "cifar10-32x32-uncond-ve": 56_397_827,
    "cifar10-32x32-cond-ve": 56_400_643,
    "ffhq-64x64-uncond-vp": 61_805_571,
    "ffhq-64x64-uncond-ve": 62_761_091,
    "afhqv2-64x64-uncond-vp": 61_805_571,
    "afhqv2-64x64-uncond-ve": 62_761_091,
    "imagenet-64x64-cond-adm": 295_899_267,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_what_it_says(name: str) -> None:
    architecture = find_architecture(name)
    network = architecture.build("meta")
    count = sum(parameter.numel() for parameter in network.parameters())
    assert architecture.name == name
    assert (network.img_resolution, network.img_channels, network.label_dim) == (
        architecture.resolution,
        architecture.channels,
        architecture.label_dim,
    )
    assert read_architecture(json.loads(json.dumps(architecture.written()))) == architecture
    if architecture.file:
        assert architecture.file == f"edm-{name}.pkl"
        assert count == PARAMETERS[name]
        assert (architecture.label_dim > 0) == ("-cond-" in name)
        assert (architecture.sigma_min, architecture.sigma_max, architecture.sigma_data) == (0.002, 80.0, 0.5)


def test_the_sizes_of_our_own() -> None:
    digits, cifar10 = ARCHITECTURES["digits"], ARCHITECTURES["cifar10-small"]
    assert (digits.resolution, digits.channels, digits.label_dim) == (16, 1, 0)
    assert digits.with_labels(10).build("meta").label_dim == 10
    count = {a.name: sum(p.numel() for p in a.build("meta").parameters()) for a in (digits, cifar10)}
    assert 4 * count["digits"] <= 3 * 2**20  # bytes in float32
    assert 10e6 < count["cifar10-small"] < 15e6


def test_an_unknown_architecture() -> None:
    with pytest.raises(UserError, match=r"expected an architecture among .*digits.*, got 'digit'"):
        find_architecture("digit")


@pytest.mark.parametrize(
    "values", [{"sigma_min": 0.0}, {"sigma_min": 90.0}, {"sigma_max": float("inf")}, {"sigma_data": 0.0}]
)
def test_noise_levels_that_no_model_has(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 < sigma_min < sigma_max"):
        replace(find_architecture("digits"), **values)
