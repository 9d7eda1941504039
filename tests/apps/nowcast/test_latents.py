"""Latents on disk: in blocks, encoded once, by one process or several, drawn from memory or from the files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from apps.nowcast.codec import Codec
from apps.nowcast.data import Windows, dihedral
from apps.nowcast.model import AutoencoderConfig
from apps.nowcast.stages import latents
from apps.nowcast.stages.latents import choose_pairs, encode_pairs
from core.distributed import Alone
from data_tools.quantities import RAINFALL_RATE

WINDOWS, MOMENTS, SIZE = 5, 3, 16
BYTES = 2 * 3 * MOMENTS * 8 * 8
"""Of the latents of a pair."""


class Rank(NamedTuple):
    global_rank: int
    world_size: int

    all_reduce = broadcast = barrier = Alone.barrier


class Counting(Codec):
    encoded = 0

    def encode(self, frames: Tensor) -> Tensor:
        self.encoded += 1
        return super().encode(frames)


@pytest.fixture
def codec() -> Counting:
    torch.manual_seed(0)
    size = AutoencoderConfig(block_out_channels=(4, 8), layers_per_block=1, latent_channels=3, norm_num_groups=2)
    return Counting(size).eval()


@pytest.fixture
def windows() -> Windows:
    frames = np.random.default_rng(0).gamma(0.5, 6.0, (WINDOWS, MOMENTS, SIZE, SIZE)).astype(np.float32)
    frames[1, 2, 3, 4] = np.nan
    ids = tuple(f"event-{index}" for index in range(WINDOWS))
    return Windows(frames, ids, ("made",) * WINDOWS, ids, RAINFALL_RATE, np.full(WINDOWS, 5.0))


def test_latents_are_those_of_the_codec(codec: Counting, windows: Windows, tmp_path: Path) -> None:
    pairs = choose_pairs(windows, 2, seed=1)
    stored = encode_pairs(codec, windows, pairs, tmp_path, "cpu")
    assert stored.shape == (10, 3, MOMENTS, 8, 8)
    assert len(stored) == 10
    for row in (0, 3, 9):
        index, element = pairs[row]
        frames = torch.from_numpy(np.nan_to_num(windows.quantity.encode(windows.frames[index]), nan=0.0))
        with torch.no_grad():
            expected = codec.encode(dihedral(frames, element)[None])[0].half()
        assert torch.equal(stored[[row]][0], expected)


def test_blocks_and_memory_change_nothing(
    codec: Counting, windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = choose_pairs(windows, 2, seed=1)
    whole = encode_pairs(codec, windows, pairs, tmp_path / "whole", "cpu")
    assert [path.name for path in whole.folder.iterdir()] == ["000000.safetensors"]
    drawn = torch.tensor([9, 0, 4, 4, 3])
    expected = whole[drawn]
    assert whole._kept is not None
    monkeypatch.setattr(latents, "BLOCK_BYTES", 4 * BYTES + 1)
    monkeypatch.setattr(latents, "KEPT_BYTES", 10 * BYTES - 1)
    blocks = encode_pairs(codec, windows, pairs, tmp_path / "blocks", "cpu")
    assert [len(rows) for rows in blocks.blocks] == [4, 4, 2]
    assert len(list(blocks.folder.iterdir())) == 3
    assert torch.equal(blocks[drawn], expected)
    assert torch.equal(blocks[[7, 8]], whole[[7, 8]])
    assert blocks._kept is None  # too many to keep


def test_what_is_there_is_not_encoded_again(
    codec: Counting, windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "BLOCK_BYTES", 3 * BYTES)
    pairs = choose_pairs(windows, 2, seed=1)
    stored = encode_pairs(codec, windows, pairs, tmp_path, "cpu")
    everything = stored[range(10)]
    assert codec.encoded == 10
    stored.path(1).unlink()  # as if killed there
    again = encode_pairs(codec, windows, pairs, tmp_path, "cpu")
    assert codec.encoded == 13
    assert torch.equal(again[range(10)], everything)
    encode_pairs(codec, windows, choose_pairs(windows, 2, seed=2), tmp_path, "cpu")
    assert codec.encoded == 23


def test_processes_encode_a_share_of_the_blocks_each(
    codec: Counting, windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = choose_pairs(windows, 2, seed=1)
    alone = encode_pairs(codec, windows, pairs, tmp_path / "alone", "cpu")[range(10)]
    monkeypatch.setattr(latents, "BLOCK_BYTES", 3 * BYTES)
    first = encode_pairs(codec, windows, pairs, tmp_path / "both", "cpu", Rank(0, 2))
    assert [path.name for path in sorted(first.folder.iterdir())] == ["000000.safetensors", "000002.safetensors"]
    second = encode_pairs(codec, windows, pairs, tmp_path / "both", "cpu", Rank(1, 2))
    assert codec.encoded == 20
    assert torch.equal(second[range(10)], alone)


def test_a_damaged_block_is_told(codec: Counting, windows: Windows, tmp_path: Path) -> None:
    stored = encode_pairs(codec, windows, choose_pairs(windows, 1, seed=1), tmp_path, "cpu")
    whole = stored.path(0).read_bytes()
    stored.path(0).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"damaged or lost.*remove"):
        stored[[0]]
    stored.path(0).unlink()
    with pytest.raises(ValueError, match="damaged or lost"):
        stored[[0]]
