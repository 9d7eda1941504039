"""The groups and arrays of an event store as `data_tools.schema` has them, made on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from data_tools.chunks import compressors
from data_tools.cli import UserError
from data_tools.quantities import Quantity
from data_tools.schema import DIMENSIONS, NO_TIME, SCHEMA_VERSION, SPLITS, TIME_UNITS, Event, increase

_EVERY_CHUNK: Any = {"write_empty_chunks": True}
"""Also those of nothing but the fill value: only so does the absence of a chunk mean that it was lost."""


def create_group(path: Path, quantity: Quantity, time_step_seconds: float, attrs: Mapping[str, Any]) -> zarr.Group:
    """The empty group of a store at `path`.

    Raises:
        ValueError: `attrs` lacks `source` or `licence`.
    """
    attributes = _attributes(quantity, time_step_seconds, attrs)
    return zarr.create_group(str(path), zarr_format=3, attributes=attributes)


def open_values(store: Path, quantity: Quantity) -> zarr.Array:
    """The packed variable of a store, to write into."""
    return zarr.open_array(str(store / quantity.name), mode="r+", zarr_format=3, config=_EVERY_CHUNK)


def _attributes(quantity: Quantity, time_step_seconds: float, attrs: Mapping[str, Any]) -> dict[str, Any]:
    missing = [name for name in ("source", "licence") if name not in attrs]
    if missing:
        raise ValueError(f"expected store attributes source and licence, got none named {' and '.join(missing)}")
    return {
        "Conventions": "CF-1.11",
        "schema_version": SCHEMA_VERSION,
        "quantity": quantity.name,
        "thresholds": list(quantity.thresholds),
        "time_step_seconds": float(time_step_seconds),
        "history": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} written by spanlift data_tools",
        **attrs,
    }


def create_values(
    group: zarr.Group, quantity: Quantity, shape: tuple[int, ...], step: float, chunk_frames: int
) -> zarr.Array:
    """The packed variable of `shape` (events, frames, height, width), empty, in chunks of so many frames of one event.

    Short windows are read whole, and smaller chunks would only add files.
    """
    dtype, scale, missing = quantity.storage
    attributes: dict[str, Any] = {
        "units": quantity.units,
        "long_name": quantity.long_name,
        "_FillValue": missing,
        "grid_mapping": "crs",
        "coordinates": "time event_id source split x_origin y_origin",
        "thresholds": list(quantity.thresholds),
        "time_step_seconds": float(step),
    }
    if quantity.standard_name:
        attributes["standard_name"] = quantity.standard_name
    if scale != 1.0:
        attributes["scale_factor"] = scale
    return group.create_array(
        quantity.name,
        shape=shape,
        chunks=(1, chunk_frames, *shape[2:]),
        dtype=dtype,
        fill_value=missing,
        dimension_names=DIMENSIONS,
        compressors=compressors(dtype),
        attributes=attributes,
        config=_EVERY_CHUNK,
    )


def check_event(event: Event, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless the event has `shape` and fits into a store; `UserError` where it lies nowhere."""
    if event.values.shape != shape:
        raise ValueError(f"expected events of shape {shape} like the first, got {event.values.shape} in {event.id}")
    if event.times.shape != shape[:1]:
        raise ValueError(f"expected {shape[0]} times in {event.id}, got shape {event.times.shape}")
    if np.isnat(event.times).any() or not increase(event.times).all():
        raise ValueError(f"expected increasing times, got others in {event.id}")
    if not event.id or not event.source:
        raise ValueError(f"expected an id and a source of every event, got {event.id!r} and {event.source!r}")
    if event.split not in SPLITS:
        raise ValueError(f"expected a split out of {', '.join(SPLITS)}, got {event.split!r} in {event.id}")
    if not np.isfinite([event.x0, event.y0]).all():
        raise UserError(f"expected the place of event {event.id}, got none: does the catalogue have its corner?")


_NO_VALUE = {"int64": NO_TIME, "string": "", "int8": -1, "float64": np.nan}
"""Fill values by type, none of them a valid value."""


def write_beside(
    group: zarr.Group,
    rows: Sequence[Event],
    shape: tuple[int, ...],
    crs: Mapping[str, Any],
    pixel_size: tuple[float, float],
    pixel_units: str,
) -> None:
    """The small variables beside the fields (`data_tools.schema` lists them)."""
    width, height = pixel_size

    def put(name: str, data: np.ndarray, dimensions: tuple[str, ...], dtype: str, attributes: dict[str, Any]) -> None:
        array = group.create_array(
            name,
            shape=data.shape,
            chunks=data.shape,
            dtype=dtype,
            fill_value=_NO_VALUE[dtype],
            compressors=ZstdCodec(level=0, checksum=True),  # a flipped bit must not move an event to another split
            dimension_names=dimensions,
            attributes=attributes,
            config=_EVERY_CHUNK,
        )
        array[...] = data

    event = ("event",)
    times = np.stack([row.times.astype("datetime64[s]").astype(np.int64) for row in rows])
    calendar = {"standard_name": "time", "units": TIME_UNITS, "calendar": "standard"}
    put("time", times, ("event", "time"), "int64", calendar)
    put("event_id", np.array([row.id for row in rows], dtype=object), event, "string", {"long_name": "event name"})
    put("source", np.array([row.source for row in rows], dtype=object), event, "string", {"long_name": "archive"})
    flags = np.array([SPLITS.index(row.split) for row in rows], dtype=np.int8)
    meanings = {"flag_values": list(range(len(SPLITS))), "flag_meanings": " ".join(SPLITS)}
    put("split", flags, event, "int8", {"long_name": "part of the data", **meanings})
    for axis, corners, count, step in (
        ("x", [row.x0 for row in rows], shape[3], width),
        ("y", [row.y0 for row in rows], shape[2], height),
    ):
        named = {"units": pixel_units, "long_name": f"{axis} of the outer corner of pixel [0, 0]"}
        put(f"{axis}_origin", np.array(corners, dtype=np.float64), event, "float64", named)
        named = {"units": pixel_units, "long_name": f"pixel centre, from {axis}_origin", "axis": axis.upper()}
        put(axis, (np.arange(count) + 0.5) * step, (axis,), "float64", named)
    group.create_array("crs", shape=(), dtype="int32", dimension_names=(), attributes=dict(crs))
