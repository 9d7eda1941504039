"""The files of a SEVIR archive: finding the catalogue, and reading events out of HDF5 with errors in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from data_tools.catalog import Entry
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


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The HDF5 file at `path`, or `UserError` where it is truncated or none."""
    try:
        file = h5py.File(path, "r", locking=False)  # locks fail on network file systems, and nobody writes here
    except OSError as error:
        raise UserError(
            f"expected a whole HDF5 file, got {path}, which is damaged or foreign: download it again"
        ) from error
    with file:
        yield file


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    data = file.get(name)
    if not isinstance(data, h5py.Dataset):
        raise UserError(f"expected the dataset {name} in {path}, got none: is it another image type?")
    return data


def shape_of(path: Path) -> tuple[int, int, int]:
    """(H, W, T) of a SEVIR file, or `UserError`."""
    with opened(path) as file:
        data = _dataset(file, "vil", path)
        if data.ndim != 4 or data.dtype != np.uint8 or data.shape[1] != data.shape[2] or data.shape[3] not in STEPS:
            raise UserError(
                f"expected vil (N, H, W, T) uint8 with H = W and T = 49 or 25, got {data.shape} {data.dtype} "
                f"in {path}: is it a SEVIR file?"
            )
        _, height, width, frames = data.shape
        return height, width, frames


def read_event(file: h5py.File, entry: Entry, path: Path) -> np.ndarray:
    """(T, H, W) uint8 of one event, or `UserError` where it is not there, not readable or another event."""
    data, names = _dataset(file, "vil", path), file.get("id")
    if entry.file_index >= len(data):
        raise UserError(f"expected event {entry.id} at {entry.file_index} of {path}, got {len(data)} events in it")
    try:
        codes = data[entry.file_index]
        name = names[entry.file_index] if isinstance(names, h5py.Dataset) else None
    except OSError as error:
        raise UserError(f"expected event {entry.id} in {path}, got a damaged part: download it again") from error
    name = name.decode() if isinstance(name, bytes) else name
    if name not in {None, entry.id}:
        raise UserError(f"expected event {entry.id} at {entry.file_index} of {path}, got {name}: wrong catalogue?")
    return np.ascontiguousarray(np.moveaxis(np.asarray(codes), -1, 0))
