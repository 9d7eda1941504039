"""The layout of an event store, its packing, and the check that a folder keeps to it.

An event store is a Zarr v3 group. Its one large variable is named after the physical quantity, `vil` or
`rainfall_rate`, has dimensions (event, time, y, x) and is packed as `Quantity.storage` says. Its chunks are
(1, k, H, W): k whole frames of one event, all of them where events are short windows, fewer where they are long.
Beside it stand

    time(event, time)        int64 seconds since 1970-01-01 UTC, the valid time of each frame
    event_id(event)          text, unique
    source(event)            text, the archive that an event was cut from
    split(event)             int8 flag: 0 train, 1 val, 2 test
    x_origin, y_origin(event)  projection coordinates of the outer corner of pixel [0, 0] of the crop
    x(x), y(y)               pixel centres, counted from that corner; y runs down where row 0 is the northernmost
    crs                      CF grid mapping in the attributes of a scalar

and group attributes that name the schema version, the quantity, its thresholds, the time step, source and licence.

Every chunk is written, a wholly missing event too: a chunk that is absent has been lost. The fill values of the
variables beside are no valid values either, so that a lost chunk of theirs does not read as something it was not.
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
NO_TIME = np.iinfo(np.int64).min
"""What stands for a time that was never written."""

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
_KINDS = {"time": "i", "event_id": "OTU", "source": "OTU", "split": "i", "x_origin": "f", "y_origin": "f"}
"""The variables beside the fields that readers use, and the numpy kinds that they may have."""

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
    """Inverse of `pack`: float32 physical values, NaN missing.

    The product is rounded once, from float64: code 10 at a scale of 0.01 is the float32 nearest to 0.1, and so reaches
    a threshold of 0.1, which the product of two float32 does not.
    """
    _, scale, missing = quantity.storage
    values = codes.astype(np.float32) if scale == 1.0 else (codes.astype(np.float64) * scale).astype(np.float32)
    values[codes == missing] = np.nan
    return values


def check_store(path: str | Path) -> list[str]:
    """Everything wrong with the store at `path`, in words; an empty list if it keeps to the schema.

    The fields themselves are not read, so that the check costs milliseconds whatever their size.
    """
    return examine(path)[1]


class Contents(NamedTuple):
    """What an examined store holds: group attributes, variables, and those of `_KINDS` in memory."""

    attributes: dict[str, Any]
    members: dict[str, Any]
    small: dict[str, np.ndarray]


def examine(path: str | Path) -> tuple[Contents | None, list[str]]:
    """(contents, problems in words) of the store at `path`; there are contents where there are no problems."""
    path = Path(path)
    if not path.exists():
        got = f"{path}, got nothing: make one with data_tools.ingest or data_tools.storms"
        return None, [f"expected an event store at {got}"]
    if not (path / "zarr.json").is_file():
        return None, [f"expected an event store (a Zarr v3 group) at {path}, got a {_kind(path)}"]
    try:
        group = zarr.open_group(str(path), mode="r", zarr_format=3, use_consolidated=False)
        attributes: dict[str, Any] = dict(group.attrs)
        # one by one: `Group.members` opens all at once, and damage to one makes asyncio write to stderr
        members: dict[str, Any] = {name: group[name] for name in (*QUANTITIES, *_BESIDE) if (path / name).is_dir()}
    except Exception as error:  # a damaged zarr.json shows in many ways: bad JSON, a missing key, an unknown codec
        return None, [f"expected a readable Zarr v3 group at {path}, got {_reason(error)}"]
    version = attributes.get("schema_version")
    if version != SCHEMA_VERSION:
        got = "none" if version is None else repr(version)
        return None, [f"expected schema_version {SCHEMA_VERSION} at {path}, got {got}: write the store again"]
    problems = _check_attributes(attributes) or _check_members(attributes["quantity"], members)
    if problems:
        return None, problems
    small: dict[str, np.ndarray] = {}
    for name in _KINDS:
        try:
            small[name] = np.asarray(members[name][...])
        except Exception as error:  # every codec answers to damage in its own way
            problems.append(f"expected a readable variable {name!r}, got {_reason(error)}: copy the store anew")
    problems = problems or _check_small(small)
    return (None, problems) if problems else (Contents(attributes, members, small), [])


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _kind(path: Path) -> str:
    """What a path that is no store is, in words."""
    if path.is_file():
        return "file"
    if (path / ".zgroup").exists() or (path / ".zarray").exists():
        return "Zarr v2 store: convert it to v3"
    return "folder of something else"


def _check_attributes(attributes: Mapping[str, Any]) -> list[str]:
    """What is wrong with the attributes of the group."""
    problems = [f"group attribute {name!r} is missing" for name in _ATTRIBUTES if name not in attributes]
    if problems:
        return problems
    name, step, thresholds = (attributes[key] for key in ("quantity", "time_step_seconds", "thresholds"))
    if not isinstance(name, str) or name not in QUANTITIES:
        problems.append(f"expected a quantity out of {', '.join(sorted(QUANTITIES))}, got {name!r}")
    if not _is_number(step) or step <= 0:
        problems.append(f"expected time_step_seconds as a positive number, got {step!r}")
    if not isinstance(thresholds, list) or not all(map(_is_number, thresholds)):
        problems.append(f"expected thresholds as a list of numbers, got {thresholds!r}")
    for key in ("source", "licence", "history"):
        if not isinstance(attributes[key], str):
            problems.append(f"expected {key} as text, got {attributes[key]!r}")
    return problems


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e12  # no NaN


def _check_members(name: str, members: Mapping[str, Any]) -> list[str]:
    """What is wrong with the variables of a store of the quantity `name`, as far as their metadata tell."""
    values = members.get(name)
    if not isinstance(values, zarr.Array):
        return [f"expected a variable {name!r} as the quantity says, got {', '.join(sorted(members)) or 'nothing'}"]
    if tuple(values.metadata.dimension_names or ()) != DIMENSIONS:  # type: ignore[union-attr]
        return [f"expected {name} to have dimensions {DIMENSIONS}, got {values.metadata.dimension_names}"]  # type: ignore[union-attr]
    dtype, scale, missing = QUANTITIES[name].storage
    attached = dict(values.attrs)
    problems = []
    if 0 in values.shape:
        problems.append(f"expected events, frames and pixels in {name}, got shape {values.shape}")
    if str(values.dtype) != dtype:
        problems.append(f"expected {name} to be packed as {dtype}, got {values.dtype}")
    if values.shards is not None or values.chunks[0] != 1 or values.chunks[2:] != values.shape[2:]:
        got = values.shards or values.chunks
        problems.append(f"expected {name} in chunks of whole frames of one event, got chunks of {got}")
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
        elif members[beside].dtype.kind not in _KINDS.get(beside, members[beside].dtype.kind):
            problems.append(f"expected {beside} of another type, got {members[beside].dtype}")
    return problems


def increase(times: np.ndarray) -> np.ndarray:
    """Whether each of `times`, along the last axis, is later than the one before it."""
    return times[..., 1:] > times[..., :-1]


def _check_small(small: Mapping[str, np.ndarray]) -> list[str]:
    """What is wrong with the contents of the variables beside the fields."""
    problems = []
    flags = sorted({int(flag) for flag in small["split"]})
    if not set(flags) <= set(range(len(SPLITS))):
        problems.append(f"expected split flags 0 to {len(SPLITS) - 1}, got {flags}")
    ids = [str(text) for text in small["event_id"]]
    if len(set(ids)) != len(ids) or "" in ids:
        problems.append("expected unique event ids, got doubled or empty ones")
    if "" in [str(text) for text in small["source"]]:
        problems.append("expected a source of every event, got empty ones")
    if (small["time"] == NO_TIME).any() or not increase(small["time"]).all():
        problems.append("expected the times of every event to increase, got others")
    if not all(np.isfinite(small[name]).all() for name in ("x_origin", "y_origin")):
        problems.append("expected finite x_origin and y_origin, got others")
    return [f"{problem}: copy the store anew" for problem in problems]
