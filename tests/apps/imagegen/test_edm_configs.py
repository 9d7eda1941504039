"""Sizes of EDM's networks: what no network has is refused in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from apps.imagegen.models.edm import EDMPrecond, network_config

SIZES: dict[str, Any] = {"img_resolution": 16, "img_channels": 3, "model_type": "SongUNet"}


@pytest.mark.parametrize("kind", ["SongUNet", "DhariwalUNet"])
def test_unknown_keywords_are_named_with_the_known(kind: str) -> None:
    with pytest.raises(TypeError, match=rf"keyword arguments of {kind}, got 'channel_multiplier'; .*channel_mult,"):
        EDMPrecond(16, 3, model_type=kind, channel_multiplier=[1, 2])
    with pytest.raises(TypeError, match="no 'in_channels' for the network"):
        EDMPrecond(16, 3, model_type=kind, in_channels=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "UNet"),
        ("img_resolution", 18),
        ("img_resolution", 0),
        ("img_channels", 2.0),
        ("label_dim", -1),
        ("model_channels", 10**9),
        ("num_blocks", True),
        ("channel_mult", []),
        ("channel_mult", [1, 2] * 6),
        ("channel_mult", 2),
        ("channel_mult", [1, 0, 1]),
        ("attn_resolutions", "16"),
        ("dropout", 1.0),
        ("dropout", "0.1"),
        ("label_dropout", -0.1),
        ("embedding_type", "sine"),
        ("encoder_type", "none"),
        ("decoder_type", "residual"),
        ("resample_filter", [1, 2, 1]),
        ("resample_filter", [1, -1]),
        ("model_channels", 34),
    ],
)
def test_values_that_no_network_has(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"expected .*got"):
        EDMPrecond(**{**SIZES, name: value})


def test_a_configuration_may_be_changed_by_name() -> None:
    config = network_config("SongUNet", {"img_resolution": 16, "in_channels": 1, "out_channels": 1})
    assert replace(config, label_dim=10).label_dim == 10
    with pytest.raises(TypeError, match="img_resolution"):
        network_config("SongUNet", {"in_channels": 1, "out_channels": 1})
