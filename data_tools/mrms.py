"""NOAA MRMS surface rain rate over the contiguous United States: one GRIB2 message a file, every two minutes, mm/h."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from data_tools.archive import Grid, on_one_grid, parse_stamp
from data_tools.cli import UserError

_NAME = re.compile(r"(?:MRMS_)?PrecipRate_00\.00_([0-9]{8})-([0-9]{6})\.grib2(?:\.gz)?")
_PRECIP_RATE = (209, 6, 1)  # discipline, category and number of PrecipRate in NOAA's local table
_CRS = {"grid_mapping_name": "latitude_longitude", "semi_major_axis": 6378137.0, "inverse_flattening": 298.257222101}
_WORKERS = 2  # a worker holds one decoded frame, 250 MB while decoding


@dataclass(frozen=True)
class Mrms:
    """MRMS PrecipRate; -3 (no coverage) and -1 (missing) become missing."""

    name: str = "mrms"
    source: str = "NOAA MRMS PrecipRate, CONUS, 0.01 degree"
    licence: str = "US public domain (NOAA)"
    step_seconds: int = 240  # of 2-minute frames every other: 13 span 48 min, near the 60 min of a 5-minute archive
    rate: str = "mm/h as given; -3 and -1 missing"

    def time_of(self, path: Path) -> np.datetime64 | None:
        match = _NAME.fullmatch(path.name)
        return parse_stamp("".join(match.groups())) if match else None

    def grid(self, path: Path) -> Grid:
        _require_eccodes()
        with _Worker([path]) as worker:
            header, _ = worker.frame(path)
        return _grid(header)

    def read(self, paths: Sequence[Path]) -> Iterator[np.ndarray]:
        return on_one_grid(self._frames(paths))

    def _frames(self, paths: Sequence[Path]) -> Iterator[tuple[Path, Grid, np.ndarray]]:
        """Decode with a few workers, each a frame ahead at most: a full pipe makes it wait."""
        _require_eccodes()
        count = max(1, min(_WORKERS, os.cpu_count() or 1, len(paths)))
        with ExitStack() as stack:
            workers = [stack.enter_context(_Worker(paths[first::count])) for first in range(count)]
            for position, path in enumerate(paths):
                header, codes = workers[position % count].frame(path)
                self._check(path, header)
                yield path, _grid(header), codes

    def _check(self, path: Path, header: Mapping[str, Any]) -> None:
        parameter = tuple(header[key] for key in ("discipline", "parameterCategory", "parameterNumber"))
        if parameter != _PRECIP_RATE:
            raise UserError(f"expected MRMS PrecipRate {_PRECIP_RATE}, got parameter {parameter} in {path.name}")
        if header["gridType"] != "regular_ll" or header["scanningMode"] != 0:
            got = f"{header['gridType']}, scanning mode {header['scanningMode']}"
            raise UserError(f"expected a latitude-longitude grid from the north-west on, got {got} in {path.name}")
        clock = "".join(f"{header[key]:02d}" for key in ("hour", "minute", "second"))
        if parse_stamp(f"{header['dataDate']}{clock}") != self.time_of(path):
            got = f"{header['dataDate']}-{clock} in the header of {path.name}"
            raise UserError(f"expected the time in the name, got {got}")


def _grid(header: Mapping[str, Any]) -> Grid:
    """The grid that the header of a message describes."""
    width, height = header["iDirectionIncrementInDegrees"], header["jDirectionIncrementInDegrees"]
    west = (header["longitudeOfFirstGridPointInDegrees"] + 180.0) % 360.0 - 180.0 - width / 2.0
    north = header["latitudeOfFirstGridPointInDegrees"] + height / 2.0
    shape = (header["Nj"], header["Ni"])
    return Grid(shape, round(west, 6), round(north, 6), (width, -height), "degrees", dict(_CRS))


class _Worker:
    """A decoding process and the frames that it will send, in the order of `paths`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __enter__(self) -> _Worker:
        root = Path(__file__).resolve().parents[1]
        search = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH", ""))))
        with TemporaryFile() as orders:  # not a pipe: one full of paths would wait for a worker that waits for us
            orders.write(b"".join(os.fsencode(path.resolve()) + b"\n" for path in self.paths))
            orders.seek(0)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "data_tools.grib_worker"],
                stdin=orders,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": search},
            )
        return self

    def frame(self, path: Path) -> tuple[dict[str, Any], np.ndarray]:
        """The next frame, which must be the one of `path` (named in errors)."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"the GRIB decoder died over {path}: try `python -c 'import eccodes'`")
        header: dict[str, Any] = json.loads(line)
        if "error" in header:
            raise UserError(f"expected an MRMS GRIB2 file, got {path}, truncated or foreign: {header['error']}")
        codes = np.empty((header["Nj"], header["Ni"]), dtype=np.uint16)
        _fill(self.process.stdout, codes, path)
        return header, codes

    def __exit__(self, *_: object) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.terminate()
        self.process.wait()


def _fill(stream: IO[bytes], codes: np.ndarray, path: Path) -> None:
    view = memoryview(codes).cast("B")  # type: ignore[arg-type]
    while view.nbytes:
        got = stream.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise UserError(f"the GRIB decoder died over {path}: try the archive without it")
        view = view[got:]


def _require_eccodes() -> None:
    if find_spec("eccodes") is None:
        raise UserError("expected the package eccodes to read GRIB2, got none: pip install 'spanlift[geo]'")
