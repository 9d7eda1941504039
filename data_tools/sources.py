"""Opening whatever holds events, and the size of their pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr

from data_tools.cli import UserError
from data_tools.sevir import pixel_size
from data_tools.sevir_events import SevirEvents
from data_tools.store import EventStore
from data_tools.table import EventTable


def open_events(path: str | Path) -> EventTable:
    """The event store at `path`, or the events of the SEVIR folder or catalogue there, as far as its files are there.

    Raises:
        UserError: neither of them, or a damaged one.
    """
    path = Path(path)
    is_sevir = path.suffix.lower() == ".csv" or (path.is_dir() and any(path.glob("*.csv")))
    return SevirEvents.open(path, skip_lost=True) if is_sevir else EventStore.open(path)


def files_not_there(table: EventTable) -> tuple[str, ...]:
    """Files that a SEVIR catalogue names and that were not downloaded."""
    return table.left_out[1] if isinstance(table, SevirEvents) else ()


def pixel_of(table: EventTable) -> tuple[float, float, str]:
    """(width, height, units) of a pixel; height is negative where row 0 is the northernmost.

    Raises:
        UserError: the store's coordinates are damaged.
    """
    if not isinstance(table, EventStore):
        return *pixel_size(table.shape[3]), "m"
    group = zarr.open_group(str(table.path), mode="r", zarr_format=3, use_consolidated=False)
    # the centre of the first pixel lies half a pixel from the corner that is counted from
    try:
        width, height = (2.0 * float(np.asarray(group[axis][...])[0]) for axis in "xy")  # type: ignore[index]
        return width, height, str(group["x"].attrs["units"])
    except Exception as error:  # every codec answers to damage in its own way
        reason = " ".join(str(error).split())
        raise UserError(
            f"damaged store {table.path}: expected coordinates x and y, got {reason}: copy it anew"
        ) from error
