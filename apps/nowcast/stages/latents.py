"""Latents of training windows, encoded once and kept on disk: the later stages never touch pixels they do not need."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from apps.nowcast.data import Windows, dihedral, generator, seen
from apps.nowcast.nowcaster import Codec, weights_hash
from core.fitting import write_atomically
from data_tools.cli import progress_bar

Pair = tuple[int, int]
"""(window, symmetry of the square)."""


def choose_pairs(windows: Windows, variants: int, seed: int, limit: int | None = None) -> list[Pair]:
    """`variants` different symmetries of each window, or a random `limit` of these pairs."""
    pairs = [
        (index, element)
        for index in range(len(windows))
        for element in torch.randperm(8, generator=generator(seed, index, 3)).tolist()[:variants]
    ]
    if limit is None or limit >= len(pairs):
        return pairs
    return [pairs[k] for k in torch.randperm(len(pairs), generator=generator(seed, 4)).tolist()[:limit]]


@torch.no_grad()
def encode_pairs(codec: Codec, windows: Windows, pairs: Sequence[Pair], folder: Path, device: str) -> Tensor:
    """Latents (pairs, C, T, h, w) in half precision, from a file in `folder` where it holds them."""
    identity = f"{weights_hash(codec)}/{windows.fingerprint}/{hashlib.sha256(repr(list(pairs)).encode()).hexdigest()}"
    cache = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"
    if cache.exists():
        with safe_open(cache, "pt") as file:
            return file.get_tensor("latents")
    parts = []
    with progress_bar() as bar:
        task = bar.add_task("encoding", total=len(pairs), note="")
        for index, element in pairs:
            frames = dihedral(seen(windows, windows.frames[index]), element)[None].to(device)
            parts.append(codec.encode(frames)[0].half().cpu())
            bar.advance(task)
    latents = torch.stack(parts)
    write_atomically(cache, lambda path: save_file({"latents": latents}, path, {"identity": identity}))
    return latents
