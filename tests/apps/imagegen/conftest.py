"""Random models of a few thousand numbers: everything image generation does, in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from apps.imagegen.models import find_architecture, save_model


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of random models of 8 x 8 pixels: `grey` without classes, `colour` with three."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    found = {}
    for name, channels, classes in (("grey", 1, 0), ("colour", 3, 3)):
        digits = find_architecture("digits")
        sizes = {"img_resolution": 8, "in_channels": channels, "out_channels": channels, "label_dim": classes}
        network = replace(digits.network, model_channels=8, channel_mult=(1,), attn_resolutions=(), **sizes)
        architecture = replace(digits, name=name, network=network)
        denoiser = architecture.build()
        with torch.no_grad():  # outputs that are not zero and depend on the class
            for parameter in denoiser.parameters():
                parameter += 0.05 * torch.randn(parameter.shape)
        found[name] = save_model(folder / f"{name}.safetensors", denoiser, architecture, {"seed": 0})
    return found
