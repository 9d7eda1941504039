"""A tiny random model and tiny stores: everything the nowcast does, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.nowcast.model import AutoencoderConfig, CuboidTransformerUNet, UNetConfig
from apps.nowcast.nowcaster import Codec, Nowcaster, save_weights
from data_tools.quantities import QUANTITIES
from data_tools.store import Event, write_store

PATCH = 32
CODEC = AutoencoderConfig(block_out_channels=(4, 8, 8), layers_per_block=1, latent_channels=3, norm_num_groups=4)
NETWORK = UNetConfig(context_shape=(7, 8, 8, 3), target_shape=(6, 8, 8, 3), base_units=8, depth=(1, 1), num_heads=2)
CRS = {"grid_mapping_name": "latitude_longitude", "earth_radius": 6371000.0}


def make_model(folder: Path, seed: int = 0, quantity: str = "rainfall_rate") -> Path:
    """Write a random model of frames of `PATCH` pixels; its last layer is not zero, so that the noise matters."""
    torch.manual_seed(seed)
    codec, network = Codec(CODEC), CuboidTransformerUNet(NETWORK)
    card = {"data": {"quantity": quantity}}
    save_weights(folder / "autoencoder.safetensors", codec, "autoencoder", CODEC, card)
    save_weights(folder / "unet.safetensors", network, "unet", NETWORK, card)
    return folder


def make_store(path: Path, events: dict[str, int], quantity: str = "rainfall_rate", patch: int = PATCH) -> Path:
    """Write a store of moving blobs: `events` says how many of each split."""
    rows, columns = np.mgrid[:patch, :patch]
    listed = []
    for split, count in events.items():
        for index in range(count):
            shift = np.arange(13)[:, None, None]
            blob = np.exp(-((rows - 10 - index) ** 2 + (columns - 4 - shift) ** 2) / 30.0)
            values = (20.0 * blob * (blob > 0.05)).astype(np.float32)
            values[:, 0, 0] = np.nan
            start = np.datetime64("2020-01-01T00:00:00") + np.timedelta64(len(listed), "D")
            times = start + np.arange(13) * np.timedelta64(300, "s")
            listed.append(Event(f"{split}-{index}", times, values, split, "blobs", 0.0, 0.0))
    write_store(
        path,
        listed,
        quantity=QUANTITIES[quantity],
        time_step_seconds=300,
        crs=CRS,
        attrs={"source": "made", "licence": "CC0"},
    )
    return path


@pytest.fixture(scope="session")
def store_factory() -> Callable[..., Path]:
    return make_store


@pytest.fixture(scope="session")
def model_factory() -> Callable[..., Path]:
    return make_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("data") / "blobs.zarr", {"train": 5, "val": 2, "test": 3})


@pytest.fixture(scope="session")
def nowcaster(tiny_model: Path) -> Nowcaster:
    return Nowcaster.load(tiny_model)
