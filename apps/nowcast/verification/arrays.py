"""Arrays of a store of statistics: their dimensions, and how they are written block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

EVENTS = 256
"""Events in a chunk."""

_BEHIND: Mapping[str, tuple[str, ...]] = {
    "ranks": ("rank",),
    "exceedance": ("threshold", "members_reaching", "truth_reaching"),
    **{f"{form}fss": ("threshold", "window", "product") for form in ("", "mean_", "probability_")},
    **{f"{form}counts{pool}": ("threshold", "outcome") for form in ("", "mean_") for pool in (1, 4, 16)},
    **dict.fromkeys(("truth_spectrum", "spectrum", "mean_spectrum"), ("wavenumber",)),
}
"""Dimensions of each statistic behind (event, lead)."""


def put(group: zarr.Group, name: str, values: np.ndarray, dimensions: tuple[str, ...]) -> None:
    """Write a variable in one chunk."""
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=tuple(max(1, side) for side in values.shape),
        dtype="string" if values.dtype == object else values.dtype,
        compressors=ZstdCodec(level=3, checksum=True),
        dimension_names=dimensions,
    )
    array[...] = values


def put_statistics(
    group: zarr.Group, rows: Iterator[Mapping[str, np.ndarray]], events: int, coordinates: Mapping[str, np.ndarray]
) -> None:
    """Write the statistics of all events, a block of them in memory at a time; the group's attribute `statistics` lists
    them.

    Args:
        group: of the method.
        rows: name -> (lead, ...), one mapping an event, all of the same names and shapes.
        events: how many.
        coordinates: values along dimensions.
    """
    for name, values in coordinates.items():
        put(group, name, values, (name,))
    arrays: dict[str, zarr.Array] = {}
    for first in range(0, events, EVENTS):
        block = [next(rows) for _ in range(first, min(first + EVENTS, events))]
        for name, example in block[0].items():
            if name not in arrays:
                shape = (events, *example.shape)
                arrays[name] = group.create_array(
                    name,
                    shape=shape,
                    chunks=(min(EVENTS, events), *example.shape),
                    dtype=example.dtype,
                    compressors=ZstdCodec(level=3, checksum=True),
                    dimension_names=("event", "lead", *_BEHIND.get(name, ())),
                )
            arrays[name][first : first + len(block)] = np.stack([row[name] for row in block])
    group.attrs["statistics"] = list(arrays)
