"""Latents of training windows, encoded once and kept on disk: the later stages never touch pixels they do not need.

    <hash of codec, windows and pairs>/000000.safetensors    latents of the first pairs, (pairs, C, T, h, w), float16
                                       000001.safetensors    of the next

A block is written at once and then never changed: an encoding that was killed goes on with the block that it lost, and
the processes of a training encode a share of the blocks each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from apps.nowcast.codec import Codec
from apps.nowcast.data import Windows, dihedral, generator, seen
from apps.nowcast.weight_files import weights_hash
from core.distributed import Alone, Fabric
from core.fitting import write_atomically
from data_tools.cli import progress_bar

Pair = tuple[int, int]
"""(window, symmetry of the square)."""

BLOCK_BYTES = 1 << 26
"""Size of a block, and what an encoding holds in memory."""
KEPT_BYTES = 1 << 30
"""Latents that are smaller together are read once and kept; others are read from disk when they are drawn."""


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


class Latents:
    """Latents (pairs, C, T, h, w) in half precision, in blocks on disk.

    Attributes:
        shape: of all of them together.
        per_block: pairs in each block but the last.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int, int, int]) -> None:
        self.folder, self.shape = folder, shape
        self.per_block = max(1, BLOCK_BYTES // (2 * torch.Size(shape[1:]).numel()))
        self._kept: Tensor | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def blocks(self) -> list[range]:
        """The pairs of each block."""
        return [range(len(self))[first : first + self.per_block] for first in range(0, len(self), self.per_block)]

    def path(self, block: int) -> Path:
        return self.folder / f"{block:06d}.safetensors"

    def __getitem__(self, rows: Sequence[int] | Tensor) -> Tensor:
        """Latents (rows, C, T, h, w) of these pairs, in their order.

        Raises:
            ValueError: a block is damaged or lost.
        """
        chosen = torch.as_tensor(rows)
        if self._kept is None and 2 * torch.Size(self.shape).numel() <= KEPT_BYTES:
            self._kept = torch.cat([self._read(block, slice(None)) for block in range(len(self.blocks))])
        if self._kept is not None:
            return self._kept[chosen]
        read = [self._read(row // self.per_block, slice(row % self.per_block, None)) for row in chosen.tolist()]
        return torch.stack(read)

    def _read(self, block: int, rows: slice) -> Tensor:
        """All latents of a block (pairs, C, T, h, w), or the one (C, T, h, w) that a slice begins with."""
        try:
            with safe_open(self.path(block), "pt") as file:
                stored = file.get_slice("latents")
                return stored[:] if rows.start is None else stored[rows.start]
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"expected latents in {self.path(block)}, got a damaged or lost file ({error}); remove {self.folder}"
            ) from error


@torch.no_grad()
def encode_pairs(
    codec: Codec, windows: Windows, pairs: Sequence[Pair], folder: Path, device: str, fabric: Fabric | None = None
) -> Latents:
    """Latents of these pairs, kept in `folder`; what is there already is not encoded again.

    Args:
        codec: on the device.
        windows: of any number; one is read at a time.
        pairs: see `choose_pairs`.
        folder: that all processes see.
        device: of this process.
        fabric: processes that encode a share of the blocks each.
    """
    fabric = fabric or Alone()
    identity = f"{weights_hash(codec)}/{windows.fingerprint}/{hashlib.sha256(repr(list(pairs)).encode()).hexdigest()}"
    moments, height, width = windows.frames.shape[1:]
    cell = codec.config.compression
    latents = Latents(
        folder / hashlib.sha256(identity.encode()).hexdigest()[:16],
        (len(pairs), codec.config.latent_channels, moments, height // cell, width // cell),
    )
    mine = list(enumerate(latents.blocks))[fabric.global_rank :: fabric.world_size]
    missing = [(block, rows) for block, rows in mine if not latents.path(block).exists()]
    with progress_bar() as bar:
        shown = fabric.global_rank == 0 and bool(missing)
        task = bar.add_task("encoding", total=sum(len(rows) for _, rows in missing), note="", visible=shown)
        for block, rows in missing:
            parts = []
            for index, element in (pairs[row] for row in rows):
                frames = dihedral(seen(windows, windows.frames[index]), element)[None].to(device)
                parts.append(codec.encode(frames)[0].half().cpu())
                bar.advance(task)
            content = {"latents": torch.stack(parts)}
            write_atomically(latents.path(block), lambda path, content=content: save_file(content, path))
    fabric.barrier()  # all blocks are there
    return latents
