"""Tiles of the model's patch over a domain of any size, and the weights that make one field of their forecasts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Tile(NamedTuple):
    """Row and column of the tile's upper left pixel in the padded domain."""

    row: int
    column: int


def corners(length: int, patch: int, overlap: int, multiple: int) -> list[int]:
    """First pixels of tiles of `patch` pixels that cover `length`, neighbours sharing `overlap` or more.

    All are multiples of `multiple`, as are `length` and `patch`, so that pixels of latents fall on one another.
    """
    free, reach = (length - patch) // multiple, (patch - overlap) // multiple
    steps = -(-free // reach)
    return [round(free * index / max(steps, 1)) * multiple for index in range(steps + 1)]


def shares(places: list[int], length: int, patch: int) -> np.ndarray:
    """(tiles, patch) float64: of each pixel, the part that each tile gives; the parts of a pixel add up to 1.

    From its border inwards a tile's part grows like sin^2 over what it shares with its neighbour: it begins near 0,
    so that no edge shows, and where only one tile lies it is 1.
    """
    weights = np.ones((len(places), patch))
    for index, (here, there) in enumerate(pairwise(places)):
        shared = here + patch - there
        rise = np.sin(0.5 * np.pi * (np.arange(shared) + 0.5) / shared) ** 2
        weights[index + 1, :shared] *= rise
        weights[index, patch - shared :] *= rise[::-1]
    total = np.zeros(length)
    for place, weight in zip(places, weights, strict=True):
        total[place : place + patch] += weight
    return np.stack([weight / total[place : place + patch] for place, weight in zip(places, weights, strict=True)])


@dataclass(frozen=True)
class Tiling:
    """How a domain is cut.

    Attributes:
        shape: (H, W) of the domain; it is padded to the right and below to multiples of `multiple`, and to a patch.
        patch: (height, width) of a tile, multiples of `multiple`.
        overlap: least number of pixels that neighbours share, below both sides of the patch.
        multiple: pixels of the domain to a pixel of the latents.
    """

    shape: tuple[int, int]
    patch: tuple[int, int]
    overlap: int
    multiple: int

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or not 0 <= self.overlap <= min(self.patch) - self.multiple:
            raise ValueError(
                f"expected a domain of a pixel or more and an overlap of 0 to {min(self.patch) - self.multiple} "
                f"pixels, got {self.shape} and {self.overlap}; choose another --overlap"
            )

    @property
    def padded(self) -> tuple[int, int]:
        height, width = (
            max(patch, -(-size // self.multiple) * self.multiple)
            for size, patch in zip(self.shape, self.patch, strict=True)
        )
        return height, width

    @cached_property
    def _rows(self) -> list[int]:
        return corners(self.padded[0], self.patch[0], self.overlap, self.multiple)

    @cached_property
    def _columns(self) -> list[int]:
        return corners(self.padded[1], self.patch[1], self.overlap, self.multiple)

    @cached_property
    def tiles(self) -> list[Tile]:
        """Row by row."""
        return [Tile(row, column) for row in self._rows for column in self._columns]

    def __len__(self) -> int:
        return len(self._rows) * len(self._columns)

    def __iter__(self) -> Iterator[Tile]:
        return iter(self.tiles)

    @cached_property
    def _shares(self) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        return (
            dict(zip(self._rows, shares(self._rows, self.padded[0], self.patch[0]), strict=True)),
            dict(zip(self._columns, shares(self._columns, self.padded[1], self.patch[1]), strict=True)),
        )

    def weight(self, tile: Tile) -> np.ndarray:
        """(patch height, patch width) float32: the tile's part of each of its pixels, see `shares`."""
        rows, columns = self._shares
        return np.outer(rows[tile.row], columns[tile.column]).astype(np.float32)

    def pad(self, frames: np.ndarray) -> np.ndarray:
        """(..., H, W) -> (..., padded), with zeros."""
        after = [(0, 0)] * (frames.ndim - 2)
        after += [(0, padded - size) for padded, size in zip(self.padded, self.shape, strict=True)]
        return np.pad(frames, after)

    def cut(self, field: np.ndarray, tile: Tile, multiple: int = 1) -> np.ndarray:
        """The view of a padded field (..., H, W) under a tile; of one in latents with their `multiple`."""
        rows, columns = (
            slice(start // multiple, (start + patch) // multiple) for start, patch in zip(tile, self.patch, strict=True)
        )
        return field[..., rows, columns]
