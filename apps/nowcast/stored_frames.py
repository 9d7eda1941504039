"""Frames of windows that stay on disk until they are asked for: what does not fit memory is indexed as if it did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from data_tools.cli import progress_bar
from data_tools.quantities import Quantity
from data_tools.schema import unpack
from data_tools.table import EventTable

_SLOW = 2**28
"""Bytes as float32 that may take seconds to read, and so are read with a progress bar."""


class Place(NamedTuple):
    """Where a window lies: `source`, events on disk or (events, T, H, W) in memory; the event; its first frame."""

    source: EventTable | np.ndarray
    index: int
    start: int


class StoredFrames:
    """(windows, T, H, W) float32 on the stored scale, NaN where missing, read at every access.

    It is indexed like an array by up to four integers and slices, and gives new arrays: `frames[7]`,
    `frames[7, 3:5]`, `frames[2:4, :6]`, `frames[7, 3, 10:20, 5:15]`. Of an event, only the frames asked for are read;
    a slice of windows reads all of them, so leave the first index an integer where memory counts.

    Args:
        places: one a window, not none, all of one frame size.
        length: frames of a window.

    Raises (when indexed):
        UserError: what is on disk is damaged or gone.
        IndexError: an index is out of range or there are too many of them.
    """

    def __init__(self, places: Sequence[Place], length: int) -> None:
        self._places = tuple(places)
        height, width = self._places[0].source.shape[2:]
        self.shape = (len(self._places), length, height, width)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """What they would take in memory."""
        return 4 * int(np.prod(self.shape, dtype=np.int64))

    @property
    def places(self) -> tuple[Place, ...]:
        return self._places

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(first, slice):
            return self._read(range(len(self))[first], *rest)
        chosen = range(len(self))[first]
        if not chosen:
            return np.empty((0, *self.shape[1:]), np.float32)[(slice(None), *rest)]
        return np.stack([self._read(number, *rest) for number in chosen])

    def _read(self, number: int, moment: Any = slice(None), *pixels: Any) -> np.ndarray:
        """Frames `moment` (one or a slice) of a window, cut to `pixels`."""
        source, index, start = self._places[number]
        chosen = range(self.shape[1])[moment]
        wanted = chosen if isinstance(chosen, range) else range(chosen, chosen + 1)
        if not wanted:
            return np.empty((0, *self.shape[2:]), np.float32)[(slice(None), *pixels)]
        lowest, highest = min(wanted), max(wanted)
        stored = slice(start + lowest, start + highest + 1)
        frames = source[index, stored] if isinstance(source, np.ndarray) else source.read(index, stored)
        return frames[(slice(None, None, wanted.step) if wanted is chosen else 0, *pixels)]

    def load(self) -> np.ndarray:
        """All of them in memory."""
        frames = np.empty(self.shape, np.float32)
        for number, window in enumerate(advancing("reading windows", self, self.nbytes)):
            frames[number] = window
        return frames

    def encoded_halves(self, quantity: Quantity) -> Iterator[np.ndarray]:
        """Window by window, what a network sees of it, in half precision."""
        if quantity.logarithmic:
            frames = (quantity.encode(window) for window in advancing("hashing windows", self, self.nbytes))
            yield from (window.astype(np.float16) for window in frames)
            return
        # code by code instead of pixel by pixel: a tenth of the time, and exactly the same where no logarithm is taken
        dtype = np.dtype(quantity.storage[0])
        halves = quantity.encode(unpack(np.arange(2 ** (8 * dtype.itemsize), dtype=dtype), quantity)).astype(np.float16)
        for source, index, start in advancing("hashing windows", self._places, self.nbytes):
            frames = slice(start, start + self.shape[1])
            if isinstance(source, np.ndarray):
                yield quantity.encode(source[index, frames]).astype(np.float16)
            else:
                yield halves[source.read_codes(index, frames)]


Frames = np.ndarray | StoredFrames
"""(windows, T, H, W) float32 on the stored scale, in memory or on disk."""


def join_frames(parts: Sequence[Frames], in_memory: int) -> Frames:
    """Windows of several sources one after another; in memory where they take `in_memory` bytes or fewer."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)  # type: ignore[arg-type]
    places = [place for part in parts for place in _places(part)]
    frames = StoredFrames(places, parts[0].shape[1])
    return frames.load() if frames.nbytes <= in_memory else frames


def _places(part: Frames) -> Sequence[Place]:
    return part.places if isinstance(part, StoredFrames) else [Place(part, number, 0) for number in range(len(part))]


def advancing(name: str, items: Any, size: int) -> Iterator[Any]:
    """`items` one by one, under a progress bar if `size` bytes of them take long."""
    bar = progress_bar() if size > _SLOW else None
    with bar or nullcontext():
        task = bar.add_task(name, total=len(items), note="") if bar else None
        for item in items:
            yield item
            if bar and task is not None:
                bar.advance(task)
