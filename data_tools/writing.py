"""Writing an event store: all of it appears at the output path, or nothing does."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from data_tools.cli import UserError
from data_tools.quantities import Quantity
from data_tools.schema import DIMENSIONS, NO_TIME, SCHEMA_VERSION, SPLITS, TIME_UNITS, Event, increase, pack

_EVERY_CHUNK: Any = {"write_empty_chunks": True}
"""Also those of nothing but the fill value: only so does the absence of a chunk mean that it was lost."""

_GROWTH = 256  # events by which the array on disk is lengthened while the number of events is not yet known


def require_free(path: str | Path, overwrite: bool) -> None:
    """Raise `UserError` unless a store may be written to `path`; call it before the long work.

    With `overwrite` only a Zarr group is ever replaced: a mistyped path must not cost a folder of something else.
    """
    path = Path(path)
    if not path.name:
        raise UserError(f"expected the path of a store to write, got {str(path)!r}: name one like out/storms.zarr")
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise UserError(f"expected a folder to write into, got the file {parent}: choose another output path")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise UserError(f"expected a free output path, got {path}, which exists: choose another or pass --overwrite")
    if not (path / "zarr.json").is_file():
        raise UserError(f"--overwrite replaces event stores only and {path} is none: remove it yourself")


def write_store(
    path: str | Path,
    events: Iterable[Event],
    *,
    quantity: Quantity,
    time_step_seconds: float,
    crs: Mapping[str, Any],
    attrs: Mapping[str, Any],
    overwrite: bool = False,
    pixel_size: tuple[float, float] = (1000.0, -1000.0),
    pixel_units: str = "m",
) -> int:
    """Write `events`, all of one shape, and return how many there were.

    Events are taken one at a time: memory does not grow with their number. `crs` holds the CF grid-mapping attributes,
    `attrs` at least `source` and `licence`. `pixel_size` is (width, height) in `pixel_units`; height is negative where
    row 0 is the northernmost.

    Raises:
        UserError: the path is taken and `overwrite` is off; there are no events; the disk is full.
        ValueError: events of unequal shape, doubled ids, an unknown split or missing attributes.
    """
    path = Path(path)
    require_free(path, overwrite)
    with _full_disk_in_words(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        _remove_stale(path, "partial")
        try:
            group, values, rows = _write_fields(partial, events, quantity, time_step_seconds, attrs)
            _write_beside(group, rows, values.shape, crs, pixel_size, pixel_units)
            _move_into_place(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return len(rows)


@contextmanager
def _full_disk_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise UserError(f"no space left for {path} ({error.strerror}): free some; nothing was written") from error
        raise


def _move_into_place(partial: Path, path: Path) -> None:
    """Put the finished folder at `path`; a former store there goes only once the new one stands."""
    former = path.with_name(f".{path.name}.former-{os.getpid()}")
    if path.exists():
        shutil.rmtree(former, ignore_errors=True)
        path.rename(former)
    partial.rename(path)
    shutil.rmtree(former, ignore_errors=True)
    _remove_stale(path, "former")


def _remove_stale(path: Path, what: str) -> None:
    """Remove what processes that no longer live left beside `path`; nobody else ever would."""
    name = re.compile(rf"{re.escape(f'.{path.name}.{what}-')}([0-9]+)")
    for entry in list(path.parent.iterdir()):
        match = name.fullmatch(entry.name)
        if match and not _lives(int(match.group(1))):
            shutil.rmtree(entry, ignore_errors=True)


def _lives(pid: int) -> bool:
    if sys.platform == "win32":  # there, signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _write_fields(
    path: Path, events: Iterable[Event], quantity: Quantity, time_step_seconds: float, attrs: Mapping[str, Any]
) -> tuple[zarr.Group, zarr.Array, list[Event]]:
    """Write the fields of all events, and return the events themselves without fields."""
    stream = iter(events)
    first = next(stream, None)
    if first is None:
        raise UserError("expected at least one event to store, got none: nothing was written")
    group = zarr.create_group(str(path), zarr_format=3, attributes=_attributes(quantity, time_step_seconds, attrs))
    values = _create_values(group, quantity, first.values.shape, time_step_seconds)
    rows: list[Event] = []
    for event in _chain(first, stream):
        _check_event(event, values.shape[1:])
        if len(rows) == values.shape[0]:
            values.resize((len(rows) + _GROWTH, *values.shape[1:]))
        values[len(rows)] = pack(event.values, quantity)
        rows.append(event._replace(values=np.empty(0)))
    if len({row.id for row in rows}) != len(rows):
        raise ValueError("expected unique event ids, got doubled ones")
    values.resize((len(rows), *values.shape[1:]))
    return group, values, rows


def _chain(first: Event, rest: Iterator[Event]) -> Iterator[Event]:
    yield first
    yield from rest


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


def _create_values(group: zarr.Group, quantity: Quantity, shape: tuple[int, ...], step: float) -> zarr.Array:
    """The packed variable, empty. An event is a chunk: training reads whole windows, smaller chunks only add files."""
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
        shape=(_GROWTH, *shape),
        chunks=(1, *shape),
        dtype=dtype,
        fill_value=missing,
        dimension_names=DIMENSIONS,
        # blosc does not notice a flipped bit
        compressors=(BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"), Crc32cCodec()),
        attributes=attributes,
        config=_EVERY_CHUNK,
    )


def _check_event(event: Event, shape: tuple[int, ...]) -> None:
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


_NO_VALUE = {"int64": NO_TIME, "string": "", "int8": -1, "float64": np.nan}
"""Fill values by type, none of them a valid value."""


def _write_beside(
    group: zarr.Group,
    rows: list[Event],
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
