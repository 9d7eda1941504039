"""What every source of events has: the small variables in memory, and fields that are read on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.cli import UserError
from data_tools.quantities import Quantity
from data_tools.schema import SPLITS, unpack


@dataclass(frozen=True, slots=True, eq=False)
class EventTable(ABC):
    """Events whose fields stay on disk. It can be pickled, so that the workers of a data loader can be started with it.

    Attributes:
        path: where the events are.
        quantity: what the fields hold, and how they are packed.
        time_step_seconds: between frames.
        shape: (events, frames, height, width).
        attrs, crs: attributes of the whole (`source` and `licence` among them) and of the CF grid mapping.
        ids, sources, splits: one entry an event.
        valid_times: (E, T) datetime64[s], UTC.
        origins: (E, 2) projection coordinates (x, y) of the outer corner of pixel [0, 0].
    """

    path: Path
    quantity: Quantity
    time_step_seconds: float
    shape: tuple[int, int, int, int]
    attrs: dict[str, Any]
    crs: dict[str, Any]
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    splits: tuple[str, ...]
    valid_times: np.ndarray
    origins: np.ndarray

    def __len__(self) -> int:
        return self.shape[0]

    def indices(self, split: str) -> list[int]:
        """Positions of the events of `train`, `val`, `test` or `all`, in their order here."""
        if split not in {*SPLITS, "all"}:
            raise UserError(f"expected a split out of {', '.join(SPLITS)} or all, got {split!r}")
        return [index for index, name in enumerate(self.splits) if split in {name, "all"}]

    def event_id(self, index: int) -> str:
        return self.ids[index]

    def source(self, index: int) -> str:
        return self.sources[index]

    def times(self, index: int) -> np.ndarray:
        """(T,) datetime64[s], UTC."""
        return self.valid_times[index]

    def read(self, index: int, frames: slice = slice(None)) -> np.ndarray:
        """(T, H, W) float32 on the quantity's scale, NaN missing; `frames` picks along time.

        Raises:
            UserError: what is on disk is damaged or gone.
        """
        return unpack(self.read_codes(index, frames), self.quantity)

    @abstractmethod
    def read_codes(self, index: int, frames: slice = slice(None)) -> np.ndarray:
        """(T, H, W) packed codes of event `index`, uint8 of VIL, with `quantity.storage[2]` where missing.

        Raises:
            UserError: what is on disk is damaged or gone.
            IndexError: no such event.
            ValueError: `frames` runs backwards.
        """
