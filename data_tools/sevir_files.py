"""The files of a SEVIR archive: finding the catalogue and what it names, and reading events out of HDF5 with errors in
words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from data_tools.archive import parse_utc
from data_tools.catalog import Entry, read_catalog, select
from data_tools.cli import UserError

STEPS = {49: 300, 25: 600}
"""Seconds between frames, by the number of frames: SEVIR and SEVIR-LR."""


def find_catalog(src: Path) -> Path:
    """`src` itself if it is a file, else CATALOG.csv or the only CSV file in it, or `UserError`."""
    if src.is_file():
        return src
    if not src.is_dir():
        raise UserError(
            f"expected a folder with CATALOG.csv and data/vil, got {src}, which is not there: check the path"
        )
    if (src / "CATALOG.csv").is_file():
        return src / "CATALOG.csv"
    found = sorted(src.glob("*.csv"))
    if len(found) != 1:
        raise UserError(f"expected CATALOG.csv in {src}, got {len(found)} CSV files: put it there or name it")
    return found[0]


class Found(NamedTuple):
    """The events of an archive that can be read.

    Attributes:
        data: the folder that `file_name` is relative to.
        entries: the events, sorted by id as text.
        shape: (H, W, T) of the fields on disk.
        doubled: ids that stand in more than one row of the catalogue, which are left out altogether.
        lost: files that the catalogue names and that are not there, their events left out.
    """

    data: Path
    entries: tuple[Entry, ...]
    shape: tuple[int, int, int]
    doubled: tuple[str, ...]
    lost: tuple[str, ...]


def find_events(
    src: str | Path, *, start: str | None = None, end: str | None = None, skip_lost: bool = False, remedy: str
) -> Found:
    """The events of VIL with nothing missing in the archive `src` (a folder, or its catalogue), all files looked into.

    Args:
        src: the archive.
        start, end: first and last nominal time of events, UTC, both included.
        skip_lost: leave out the events of files that are not there instead of refusing.
        remedy: the option that does so, for the message.

    Raises:
        UserError: no catalogue or a broken one; a file that it names is absent, truncated or no SEVIR file; no events.
    """
    catalog = find_catalog(Path(src))
    after = parse_utc(start, "--start") - np.timedelta64(1, "s") if start else None
    until = parse_utc(end, "--end") if end else None
    rows = read_catalog(catalog)
    entries = select(rows, after=after, until=until)
    chosen = {entry.id for entry in entries}
    doubled = sorted({row.id for row in rows if row.img_type == "vil" and _within(row, after, until)} - chosen)
    data = catalog.parent / "data" if (catalog.parent / "data").is_dir() else catalog.parent
    names = sorted({entry.file_name for entry in entries})
    lost = tuple(name for name in names if not (data / name).is_file())
    if lost and not skip_lost:
        raise UserError(
            f"expected {data / lost[0]}, which {catalog.name} names, got no such file"
            f"{f' (nor {len(lost) - 1} others)' if len(lost) > 1 else ''}: download it, choose events with "
            f"--start and --end, or pass {remedy} to leave its events out"
        )
    entries = [entry for entry in entries if entry.file_name not in lost]
    if not entries:
        raise UserError(f"expected events of vil with nothing missing in {catalog}, got none that can be read")
    shapes = {name: shape_of(data / name) for name in names if name not in lost}
    shape = next(iter(shapes.values()))
    for name, other in shapes.items():
        if other != shape:
            raise UserError(f"expected fields of {shape} as in the other files, got {other} in {data / name}")
    return Found(data, tuple(entries), shape, tuple(doubled), lost)


def _within(row: Entry, after: np.datetime64 | None, until: np.datetime64 | None) -> bool:
    """Whether `select` would take the row if no other had its id."""
    early, late = after is not None and row.time <= after, until is not None and row.time > until
    return row.pct_missing == 0.0 and not early and not late


class OpenFiles:
    """HDF5 files of one folder, opened when first read and kept open; those of a parent process are never used.

    It is pickled as the folder alone. A handle that a forked worker inherited would share its state with the parent.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self._owner, self._files = os.getpid(), dict[str, h5py.File]()

    def __reduce__(self) -> tuple[type[OpenFiles], tuple[Path]]:
        return (OpenFiles, (self.data,))

    def read(self, entry: Entry, frames: slice = slice(None)) -> np.ndarray:
        """(T, H, W) uint8 of the `frames` of one event, or `UserError`; see `read_event`."""
        if self._owner != os.getpid():
            self._owner, self._files = os.getpid(), {}
        path = self.data / entry.file_name
        if entry.file_name not in self._files:
            self._files[entry.file_name] = _open(path)
        return read_event(self._files[entry.file_name], entry, path, frames)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The HDF5 file at `path`, or `UserError` where it is truncated or none."""
    with _open(path) as file:
        yield file


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)  # locks fail on network file systems, and nobody writes here
    except FileNotFoundError as error:
        raise UserError(f"expected {path}, got no such file: download it") from error
    except OSError as error:
        raise UserError(
            f"expected a whole HDF5 file, got {path}, which is damaged or foreign: download it again"
        ) from error


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    data = file.get(name)
    if not isinstance(data, h5py.Dataset):
        raise UserError(f"expected the dataset {name} in {path}, got none: is it another image type?")
    return data


def shape_of(path: Path) -> tuple[int, int, int]:
    """(H, W, T) of a SEVIR file, or `UserError`."""
    with opened(path) as file:
        data = _dataset(file, "vil", path)
        square = data.ndim == 4 and data.shape[1] == data.shape[2] > 0
        if not square or data.dtype != np.uint8 or data.shape[3] not in STEPS:
            raise UserError(
                f"expected vil (N, H, W, T) uint8 with H = W and T = 49 or 25, got {data.shape} {data.dtype} "
                f"in {path}: is it a SEVIR file?"
            )
        ids_in(file, path)
        _, height, width, frames = data.shape
        return height, width, frames


def ids_in(file: h5py.File, path: Path) -> h5py.Dataset | None:
    """`id` (N,), a text for each event of `vil`; None where there is none, as in SEVIR-LR. `UserError` if it is other
    than that."""
    names, count = file.get("id"), len(_dataset(file, "vil", path))
    if not isinstance(names, h5py.Dataset):
        return None
    if names.shape != (count,) or names.dtype.kind not in "SO":
        raise UserError(
            f"expected id ({count},) of text in {path}, as many as events, got {names.shape} {names.dtype}: download "
            "it again"
        )
    return names


def text_of(name: object) -> str:
    """An id as h5py gives it."""
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def read_event(file: h5py.File, entry: Entry, path: Path, frames: slice = slice(None)) -> np.ndarray:
    """(T, H, W) uint8 of the `frames` of one event, or `UserError` where it is not there, not readable or another."""
    data, names = _dataset(file, "vil", path), ids_in(file, path)
    if entry.file_index >= len(data):
        raise UserError(f"expected event {entry.id} at {entry.file_index} of {path}, got {len(data)} events in it")
    try:
        codes = data[entry.file_index]  # whole, as it lies on disk: a few frames would be H * W short reads
        name = None if names is None else text_of(names[entry.file_index])
    except OSError as error:
        raise UserError(f"expected event {entry.id} in {path}, got a damaged part: download it again") from error
    if name not in {None, entry.id}:
        raise UserError(f"expected event {entry.id} at {entry.file_index} of {path}, got {name}: wrong catalogue?")
    return np.ascontiguousarray(np.moveaxis(np.asarray(codes)[..., frames], -1, 0))
