"""How often each event occurs in each bootstrap resample, in memory that does not grow with the number of events.

What is resampled are the units: the events, or clusters of them that share a label and are drawn together (the windows
of one storm or of one moment, say). A column of weights belongs to an event and is that of its unit.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np

WHOLE = 1 << 14
"""So many units are drawn at once, beyond them in blocks: first how many of each block, then which of it."""

_BLOCK = 1 << 10
_DRAWS = 64
"""Resamples drawn at a time, so that their 64-bit counts take little memory."""


class Weights(Protocol):
    """Weights (resamples, events) of which columns are asked for: an array, or `Resamples`."""

    def __getitem__(self, key: tuple[slice, slice], /) -> np.ndarray: ...


def resamples(events: int, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each event occurs in each resample: int64 (draws, events), rows sum to `events`.

    Raises:
        ValueError: no events or no draws.
    """
    if events < 1 or draws < 1:
        raise ValueError(f"expected at least one event and one draw, got {events} and {draws}")
    return np.random.default_rng(seed).multinomial(events, np.full(events, 1.0 / events), size=draws)


class Resamples:
    """The weights of `resamples`, number for number up to `WHOLE` units, drawn as they are asked for beyond.

    Args:
        events: how many.
        draws: how many resamples.
        seed: of the draws.
        labels: of each event, where events of one label are drawn together.

    Raises:
        ValueError: no events, no draws, or not one label per event.
    """

    def __init__(self, events: int, draws: int = 1000, seed: int = 0, labels: Sequence[Hashable] | None = None) -> None:
        if labels is not None and len(labels) != events:
            raise ValueError(f"expected one label per event ({events}), got {len(labels)}")
        if events < 1 or draws < 1:
            raise ValueError(f"expected at least one event and one draw, got {events} and {draws}")
        numbers = {label: number for number, label in enumerate(dict.fromkeys(labels or ()))}
        self.units = len(numbers) or events
        self.draws, self.seed = draws, seed
        self._unit = np.array([numbers[label] for label in labels]) if labels is not None else np.arange(events)
        generator = np.random.default_rng(seed)
        if self.units <= WHOLE:
            self._whole = _multinomial(generator, self.units, np.full(self.units, 1.0 / self.units), draws)
        else:
            sizes = np.diff([*range(0, self.units, _BLOCK), self.units])
            self._whole = None
            self._shares = _multinomial(generator, self.units, sizes / self.units, draws, np.uint32)

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        """Weights [:, first:last] of some events: (draws, last - first)."""
        units = self._unit[key[1]]
        if self._whole is not None:
            return self._whole[:, units][key[0]]
        columns = np.empty((self.draws, len(units)), np.uint32)
        for block in np.unique(units // _BLOCK):
            inside = units // _BLOCK == block
            columns[:, inside] = self._block(int(block))[:, units[inside] - block * _BLOCK]
        return columns[key[0]]

    def _block(self, block: int) -> np.ndarray:
        size = min(_BLOCK, self.units - block * _BLOCK)
        generator = np.random.default_rng([self.seed, block])
        return generator.multinomial(self._shares[:, block].astype(np.int64), np.full(size, 1.0 / size))


def _multinomial(
    generator: np.random.Generator, count: int, shares: np.ndarray, draws: int, dtype: type = np.uint16
) -> np.ndarray:
    """Row by row what one call would draw, in a smaller type."""
    rows = np.empty((draws, len(shares)), dtype)
    for first in range(0, draws, _DRAWS):
        part = rows[first : first + _DRAWS]
        part[:] = generator.multinomial(count, shares, size=len(part))
    return rows
