"""The event store as its users see it: `write_store` makes one, `EventStore` reads it (see `data_tools.schema`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from data_tools.cli import UserError
from data_tools.quantities import QUANTITIES, Quantity
from data_tools.schema import SPLITS, Event, check_store, examine, pack, unpack
from data_tools.writing import require_free, write_store

__all__ = ["SPLITS", "Event", "EventStore", "check_store", "pack", "require_free", "unpack", "write_store"]


@dataclass(frozen=True, slots=True, eq=False)
class EventStore:
    """An open event store. Fields are read on demand, one event at a time; the small variables are in memory.

    It can be pickled, so that the workers of a data loader can be started with it.

    Attributes:
        shape: (events, frames, height, width).
        attrs, crs: attributes of the group and of the grid mapping.
        ids, sources, splits: one entry an event.
        valid_times: (E, T) datetime64[s], UTC.
        origins: (E, 2) projection coordinates (x, y) of the outer corner of pixel [0, 0].
        fields: the packed array; `read` unpacks it.
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
    fields: zarr.Array

    @classmethod
    def open(cls, path: str | Path, quantity: str | None = None) -> EventStore:
        """Open the store at `path`, and insist on `quantity` where one is named.

        Raises:
            UserError: no store there, a foreign folder, another schema version, a damaged store or another quantity.
        """
        path = Path(path)
        contents, problems = examine(path)
        if contents is None:
            words = "; ".join(problems)
            raise UserError(words if str(path) in words else f"damaged store {path}: {words}")
        attrs, members, small = contents
        name = attrs["quantity"]
        if quantity not in {None, name}:
            raise UserError(f"expected a store of {quantity}, got {name} in {path}: choose another store")
        return cls(
            path=path,
            quantity=QUANTITIES[name],
            time_step_seconds=float(attrs["time_step_seconds"]),
            shape=tuple(members[name].shape),
            attrs=attrs,
            crs=dict(members["crs"].attrs),
            ids=tuple(str(text) for text in small["event_id"]),
            sources=tuple(str(text) for text in small["source"]),
            splits=tuple(SPLITS[flag] for flag in small["split"]),
            valid_times=small["time"].astype("datetime64[s]"),
            origins=np.stack([small["x_origin"], small["y_origin"]], axis=1),
            fields=members[name],
        )

    def __len__(self) -> int:
        return self.shape[0]

    def indices(self, split: str) -> list[int]:
        """Positions of the events of `train`, `val`, `test` or `all`, in the order of the store."""
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
            UserError: the chunk on disk is damaged or gone.
        """
        index = range(len(self))[index]  # counted from the front, as chunks are
        wanted = f"expected whole fields of {self.ids[index]} in {self.path}"
        chunk = self.path / self.quantity.name / self.fields.metadata.encode_chunk_key((index, 0, 0, 0))
        if not chunk.is_file():  # zarr would give missing values for it, and no error
            raise UserError(f"{wanted}, got no {chunk.relative_to(self.path)}: copy the store anew or write it again")
        try:
            codes = np.asarray(self.fields[index, frames])
        except (RuntimeError, ValueError, TypeError, SystemError, OSError, MemoryError) as error:  # blosc's and zarr's
            reason = " ".join(str(error).split())
            raise UserError(f"{wanted}, got damage ({reason}): copy the store anew or write it again") from error
        return unpack(codes, self.quantity)
