"""The event store as its users see it: `write_store` makes one, `EventStore` reads it (see `data_tools.schema`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from data_tools.chunks import decodable, decode
from data_tools.cli import UserError
from data_tools.quantities import QUANTITIES
from data_tools.schema import SPLITS, Event, check_store, examine, pack, unpack
from data_tools.table import EventTable
from data_tools.writing import require_free, write_store

__all__ = ["SPLITS", "Event", "EventStore", "check_store", "pack", "require_free", "unpack", "write_store"]


@dataclass(frozen=True, slots=True, eq=False)
class EventStore(EventTable):
    """An open event store. Of the fields, only the chunks that hold the wanted frames are read.

    Attributes:
        fields: the packed array; `read` unpacks it.
        skip_damaged: whether frames in a damaged or lost chunk read as missing instead of raising `UserError`.
    """

    fields: zarr.Array
    skip_damaged: bool = False

    @classmethod
    def open(cls, path: str | Path, quantity: str | None = None, *, skip_damaged: bool = False) -> EventStore:
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
            skip_damaged=skip_damaged,
        )

    def read_codes(self, index: int, frames: slice = slice(None)) -> np.ndarray:
        """(T, H, W) packed codes of event `index`; only the chunks that hold `frames` are read.

        Raises:
            UserError: a chunk on disk is damaged or gone: it is named, and other events and frames can still be read.
            IndexError: no such event.
            ValueError: `frames` runs backwards.
        """
        index = range(len(self))[index]  # counted from the front, as chunks are
        wanted = range(self.shape[1])[frames]
        if wanted.step < 0:
            raise ValueError(f"expected frames in their order, got {frames}")
        codes = np.empty((len(wanted), *self.shape[2:]), dtype=self.quantity.storage[0])
        length = self.fields.chunks[1]
        for number in sorted({frame // length for frame in wanted}):
            first = number * length
            rows = slice(_position(wanted, first), _position(wanted, first + length))
            inside = slice(wanted[rows].start - first, wanted[rows].stop - first, wanted.step)
            try:
                codes[rows] = self._read_chunk(index, number)[inside]
            except UserError:
                if not self.skip_damaged:
                    raise
                codes[rows] = self.quantity.storage[2]
        return codes

    def _read_chunk(self, index: int, number: int) -> np.ndarray:
        """The frames of chunk `number` of event `index`; the last chunk may have more of them than the event."""
        key = f"{self.quantity.name}/{self.fields.metadata.encode_chunk_key((index, number, 0, 0))}"
        length = self.fields.chunks[1]
        try:
            if decodable(self.fields):
                # neither a buffer nor a Path: together they cost as much as the decoding of a small chunk
                with open(f"{self.path}/{key}", "rb", buffering=0) as file:
                    return decode(file.readall(), self.quantity.storage[0], (length, *self.shape[2:]))
            (self.path / key).stat()
            return np.asarray(self.fields[index, number * length : (number + 1) * length])
        except FileNotFoundError as error:  # zarr would give missing values for it, and no error
            raise self._damaged(index, f"no {key}") from error
        except (RuntimeError, ValueError, TypeError, SystemError, OSError, MemoryError) as error:  # blosc's and zarr's
            raise self._damaged(index, f"damage in {key} ({' '.join(str(error).split())})") from error

    def _damaged(self, index: int, got: str) -> UserError:
        wanted = f"expected whole fields of {self.ids[index]} in {self.path}"
        return UserError(f"{wanted}, got {got}: copy the store anew or write it again")


def _position(frames: range, bound: int) -> int:
    """How many of `frames`, which increase, lie before `bound`."""
    return len(range(frames.start, min(bound, frames.stop), frames.step))
