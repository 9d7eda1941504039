"""The layout of an event store, its packing, and the check that a folder keeps to it.

An event store is a Zarr v3 group. Its one large variable is named after the physical quantity, `vil` or
`rainfall_rate`, has dimensions (event, time, y, x), one chunk per event, and is packed as `Quantity.storage` says.
Beside it stand

    time(event, time)        int64 seconds since 1970-01-01 UTC, the valid time of each frame
    event_id(event)          text, unique
    source(event)            text, the archive that an event was cut from
    split(event)             int8 flag: 0 train, 1 val, 2 test
    x_origin, y_origin(event)  projection coordinates of the outer corner of pixel [0, 0] of the crop
    x(x), y(y)               pixel centres, counted from that corner; y runs down where row 0 is the northernmost
    crs                      CF grid mapping in the attributes of a scalar

and group attributes that name the schema version, the quantity, its thresholds, the time step, source and licence.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

from data_tools.quantities import QUANTITIES, Quantity

SCHEMA_VERSION = 1
"""Raised when a reader of the former layout would misread the new one."""

SPLITS = ("train", "val", "test")
"""Names of the split flags, in the order of their values."""

TIME_UNITS = "seconds since 1970-01-01 00:00:00"
DIMENSIONS = ("event", "time", "y", "x")

_BESIDE = {
    "time": ("event", "time"),
    "event_id": ("event",),
    "source": ("event",),
    "split": ("event",),
    "x_origin": ("event",),
    "y_origin": ("event",),
    "x": ("x",),
    "y": ("y",),
    "crs": (),
}
_ATTRIBUTES = ("schema_version", "quantity", "thresholds", "time_step_seconds", "source", "licence", "history")


class Event(NamedTuple):
    """One storm window.

    Attributes:
        id: unique name.
        times: (T,) datetime64[s], UTC.
        values: (T, H, W) float32 on the quantity's scale, NaN where missing.
        split: `train`, `val` or `test`.
        source: the archive it was cut from.
        x0, y0: projection coordinates of the outer corner of pixel [0, 0].
    """

    id: str
    times: np.ndarray
    values: np.ndarray
    split: str
    source: str
    x0: float
    y0: float


def pack(values: np.ndarray, quantity: Quantity) -> np.ndarray:
    """Physical values (NaN missing) to the integer code of the store; values out of its range are clipped."""
    dtype, scale, missing = quantity.storage
    codes = np.rint(values / scale).clip(0, missing - 1)
    return np.where(np.isnan(values), missing, codes).astype(dtype)


def unpack(codes: np.ndarray, quantity: Quantity) -> np.ndarray:
    """Inverse of `pack`: float32 physical values, NaN missing."""
    _, scale, missing = quantity.storage
    values = codes.astype(np.float32) * np.float32(scale)
    values[codes == missing] = np.nan
    return values


def check_store(path: str | Path) -> list[str]:
    """Everything wrong with the store at `path`, in words; an empty list if it keeps to the schema.

    Only metadata and the split flags are read, so that the check costs milliseconds whatever the number of events.
    """
    path = Path(path)
    if not path.exists():
        return [f"expected an event store at {path}, got nothing: make one with data_tools.ingest or data_tools.storms"]
    if not (path / "zarr.json").is_file():
        return [f"expected an event store (a Zarr v3 group) at {path}, got a {_kind(path)}"]
    try:
        group = zarr.open_group(str(path), mode="r", zarr_format=3, use_consolidated=False)
        members = dict(group.members())
    except Exception as error:  # a damaged zarr.json shows in many ways: bad JSON, a missing key, an unknown codec
        return [f"expected a readable Zarr v3 group at {path}, got {type(error).__name__}: {error}"]
    version = group.attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        got = "none" if version is None else repr(version)
        return [f"expected schema_version {SCHEMA_VERSION} at {path}, got {got}: write the store again"]
    problems = [f"group attribute {name!r} is missing" for name in _ATTRIBUTES if name not in group.attrs]
    return problems or _check_members(group.attrs, members)


def _kind(path: Path) -> str:
    """What a path that is no store is, in words."""
    if path.is_file():
        return "file"
    if (path / ".zgroup").exists() or (path / ".zarray").exists():
        return "Zarr v2 store: convert it to v3"
    return "folder of something else"


def _check_members(attributes: Mapping[str, Any], members: Mapping[str, Any]) -> list[str]:
    """What is wrong with the variables of a store whose group attributes are complete."""
    name = attributes["quantity"]
    if name not in QUANTITIES:
        return [f"expected a quantity out of {', '.join(sorted(QUANTITIES))}, got {name!r}"]
    values = members.get(name)
    if not isinstance(values, zarr.Array):
        return [f"expected a variable {name!r} as the quantity says, got {', '.join(sorted(members)) or 'nothing'}"]
    if tuple(values.metadata.dimension_names or ()) != DIMENSIONS:  # type: ignore[union-attr]
        return [f"expected {name} to have dimensions {DIMENSIONS}, got {values.metadata.dimension_names}"]  # type: ignore[union-attr]
    dtype, scale, missing = QUANTITIES[name].storage
    attached = dict(values.attrs)
    problems = []
    if str(values.dtype) != dtype:
        problems.append(f"expected {name} to be packed as {dtype}, got {values.dtype}")
    if attached.get("scale_factor", 1.0) != scale:
        problems.append(f"expected {name} to have scale_factor {scale}, got {attached.get('scale_factor')}")
    if attached.get("_FillValue") != missing:
        problems.append(f"expected {name} to have _FillValue {missing}, got {attached.get('_FillValue')}")
    sizes = dict(zip(DIMENSIONS, values.shape, strict=True))
    for beside, dimensions in _BESIDE.items():
        shape = tuple(sizes[dimension] for dimension in dimensions)
        if not isinstance(members.get(beside), zarr.Array):
            problems.append(f"variable {beside!r} is missing")
        elif members[beside].shape != shape:
            problems.append(f"expected {beside} of shape {shape}, got {members[beside].shape}")
    return problems or _check_flags(members["split"][...])


def _check_flags(flags: np.ndarray) -> list[str]:
    if ((flags < 0) | (flags >= len(SPLITS))).any():
        return [f"expected split flags 0 to {len(SPLITS) - 1}, got {sorted({int(flag) for flag in flags})}"]
    return []
