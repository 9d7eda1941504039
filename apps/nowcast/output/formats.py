"""Choosing a format by the name of the output, and letting the file appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from apps.nowcast.output.geotiff import GeotiffWriter, require_rasterio
from apps.nowcast.output.layout import Layout
from apps.nowcast.output.leftovers import clear, partial
from apps.nowcast.output.netcdf import NetcdfWriter
from apps.nowcast.output.zarr_store import ZarrWriter
from data_tools.cli import UserError, check_outputs

SUFFIXES = {
    ".nc": NetcdfWriter, ".nc4": NetcdfWriter, ".zarr": ZarrWriter, ".tif": GeotiffWriter, ".tiff": GeotiffWriter,
}  # fmt: skip


class Writer(Protocol):
    """A file in the making."""

    def write(self, name: str, index: int | None, fields: np.ndarray) -> None:
        """Fields (time, y, x), NaN missing, of member or threshold `index`, of the whole variable where None."""
        ...

    def attributes(self, values: Mapping[str, Any]) -> None:
        """Attributes of the whole file."""
        ...

    def close(self) -> None: ...


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse outputs of no known format and places that cannot be written.

    Raises:
        UserError: as said; a package is missing; something is there, unless it may be replaced; a folder that is no
            Zarr group, which is never replaced.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"expected --out to end in {', '.join(SUFFIXES)}, got {path}")
    if SUFFIXES[path.suffix.lower()] is GeotiffWriter:
        require_rasterio()
    there = path.exists()
    if path.suffix.lower() != ".zarr" or not there:
        check_outputs([path], overwrite)
    elif not (path / "zarr.json").is_file():
        raise UserError(f"expected a Zarr store or nothing at {path}, got something else: choose another --out")
    elif not overwrite:
        raise UserError(f"expected a new store, got {path}, which exists; add --overwrite or choose another name")


@contextmanager
def opened(path: Path, layout: Layout) -> Iterator[Writer]:
    """A writer of the format of `path`. What it wrote takes its place there when the block ends without an error.

    Readers see the old file or the new one; of a Zarr store, which is a folder, there is a moment without any. What a
    killed process left of this output is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = partial(path), partial(path, "old")
    clear(path)
    _remove(temporary)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, about their own inner matters
            writer: Writer = SUFFIXES[path.suffix.lower()](temporary, layout)
            try:
                yield writer
            finally:
                writer.close()
        if temporary.is_dir() and path.exists():
            os.replace(path, old)
            os.replace(temporary, path)
            _remove(old)
        else:
            os.replace(temporary, path)
        clear(path, what="old")  # only now: it may have been the last whole one
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
