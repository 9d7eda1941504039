"""Writing an event store: all of it appears at the output path, or nothing does."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from data_tools.cli import FULL, UserError
from data_tools.layout import check_event, create_group, create_values, write_beside
from data_tools.quantities import Quantity
from data_tools.schema import Event, pack

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
    with full_disk_in_words(path, "nothing was written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        _remove_stale(path, "partial")
        try:
            group, values, rows = _write_fields(partial, events, quantity, time_step_seconds, attrs)
            write_beside(group, rows, values.shape, crs, pixel_size, pixel_units)
            move_into_place(partial, path, overwrite)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return len(rows)


class NoSpace(UserError):
    """The disk is full: what comes next would fail too."""


@contextmanager
def full_disk_in_words(path: Path, kept: str) -> Iterator[None]:
    """Turn the system's word for a full disk into `NoSpace`; `kept` says what became of what was written."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise NoSpace(f"no space left for {path} ({error.strerror}): free some; {kept}") from error
        raise


def move_into_place(partial: Path, path: Path, overwrite: bool) -> None:
    """Put the finished folder at `path`; a former store there goes only once the new one stands.

    Raises:
        UserError: as `require_free`: in hours of work the path may have been taken.
    """
    require_free(path, overwrite)
    former = path.with_name(f".{path.name}.former-{os.getpid()}")
    if path.exists():
        shutil.rmtree(former, ignore_errors=True)
        path.rename(former)
    partial.rename(path)
    shutil.rmtree(former, ignore_errors=True)
    _remove_stale(path, "former")


def _remove_stale(path: Path, what: str) -> None:
    remove_left(path.parent, re.compile(rf"{re.escape(f'.{path.name}.{what}-')}([0-9]+)"))


def remove_left(folder: Path, name: re.Pattern[str]) -> None:
    """Remove what processes that no longer live left in a folder; nobody else ever would.

    `name` matches whole names, and the number of the process in them by its first group. What cannot be removed stays.
    """
    if not folder.is_dir():
        return
    for entry in list(folder.iterdir()):
        match = name.fullmatch(entry.name)
        if match and not _lives(int(match.group(1))):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with suppress(OSError):
                    entry.unlink()


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
    group = create_group(path, quantity, time_step_seconds, attrs)
    frames = len(first.values)
    values = create_values(group, quantity, (_GROWTH, *first.values.shape), time_step_seconds, frames)
    rows: list[Event] = []
    for event in _chain(first, stream):
        check_event(event, values.shape[1:])
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
