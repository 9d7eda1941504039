"""FMI's lowest-level reflectivity composite: one gzipped 8-bit PGM a frame, its metadata in comments of the PGM header.

Reflectivity becomes rain rate by FMI's relation for rain, Z = 223 R^1.53 (Leinonen et al. 2012,
doi:10.1029/2011JD016539).
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_tools.archive import MISSING, RATE_STEP, Grid, on_one_grid, parse_stamp
from data_tools.cli import UserError
from data_tools.projection import polar_stereographic_attributes, spherical_stereographic

_NAME = re.compile(r"([0-9]{12})_fmi\.[\w.]+\.pgm(?:\.gz)?")

EARTH_RADIUS = 6371288.0
"""m. With it, the corners and the pixel sizes in the headers agree; the headers themselves name no ellipsoid."""

ZR_A, ZR_B = 223.0, 1.53
DRY_BELOW_DBZ = 8.0
"""Weaker echoes (under 0.1 mm/h by the relation above) are insects, clutter and drizzle: set to dry."""


class Pgm(NamedTuple):
    """An 8-bit PGM: pixels (rows, columns) uint8, the greatest value, and the `key value` comments of its header."""

    pixels: np.ndarray
    maximum: int
    comments: dict[str, str]


def parse_pgm(data: bytes) -> Pgm:
    """Parse a binary (P5) 8-bit PGM. Raises `ValueError` naming what is wrong."""
    if data[:2] != b"P5":
        raise ValueError("it does not begin with P5")
    position, numbers, comments = 2, [], {}
    while len(numbers) < 3:
        match = re.compile(rb"\s*(?:#([^\n]*)\n|([0-9]{1,9})(?=\s))").match(data, position)
        if match is None:
            raise ValueError("its header breaks off")
        position = match.end()
        if match.group(2) is not None:
            numbers.append(int(match.group(2)))
        else:
            key, _, value = match.group(1).decode("latin-1").strip().partition(" ")
            comments.setdefault(key, value.strip())
    columns, rows, maximum = numbers
    if not 0 < maximum < 256:
        raise ValueError(f"its greatest value is {maximum}, not within 1 to 255")
    raster = data[position + 1 :]  # one white space ends the header
    if len(raster) != rows * columns:
        raise ValueError(f"it has {len(raster)} pixels, not {rows} x {columns}")
    return Pgm(np.frombuffer(raster, dtype=np.uint8).reshape(rows, columns), maximum, comments)


def rate_of_dbz(dbz: np.ndarray) -> np.ndarray:
    """Rain rate in mm/h of a reflectivity in dBZ, 0 below `DRY_BELOW_DBZ`."""
    z = 10.0 ** (dbz / 10.0)
    return np.where(dbz < DRY_BELOW_DBZ, 0.0, (z / ZR_A) ** (1.0 / ZR_B))


@dataclass(frozen=True)
class Fmi:
    """FMI composite of Finland, dBZ = (PV - 64) / 2, the greatest value missing."""

    name: str = "fmi"
    source: str = "FMI radar reflectivity composite, lowest level (FIN SUOMI1)"
    licence: str = "CC BY 4.0, Finnish Meteorological Institute"
    step_seconds: int = 300
    rate: str = f"Z = {ZR_A:g} R^{ZR_B:g} (Leinonen et al. 2012), dry below {DRY_BELOW_DBZ:g} dBZ"

    def time_of(self, path: Path) -> np.datetime64 | None:
        match = _NAME.fullmatch(path.name)
        return parse_stamp(match.group(1)) if match else None

    def grid(self, path: Path) -> Grid:
        return _grid(path, self._image(path))

    def read(self, paths: Sequence[Path]) -> Iterator[np.ndarray]:
        return on_one_grid(self._frames(paths))

    def _frames(self, paths: Sequence[Path]) -> Iterator[tuple[Path, Grid, np.ndarray]]:
        codes = np.rint(rate_of_dbz((np.arange(256) - 64.0) / 2.0) / RATE_STEP).clip(0, MISSING - 1).astype(np.uint16)
        for path in paths:
            image = self._image(path)
            table = codes.copy()
            table[image.maximum :] = MISSING
            yield path, _grid(path, image), table[image.pixels]

    def _image(self, path: Path) -> Pgm:
        try:
            data = path.read_bytes()
            image = parse_pgm(gzip.decompress(data) if path.suffix == ".gz" else data)
        except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
            raise UserError(f"expected an FMI image (gzipped PGM), got {path}, truncated or foreign: {error}") from None
        if "reflectivity" not in image.comments.get("param", "").lower():
            raise UserError(f"expected a reflectivity, got {image.comments.get('param', 'no param')!r} in {path.name}")
        time = parse_stamp(image.comments.get("obstime", ""))
        if time != self.time_of(path):
            raise UserError(f"expected the time in the name, got obstime {time} in the header of {path.name}")
        return image


def _grid(path: Path, image: Pgm) -> Grid:
    """The grid that the comments of a header describe."""
    try:
        kind = image.comments["type"]
        central, true = (float(image.comments[key]) for key in ("centrallongitude", "truelatitude"))
        pole = float(image.comments.get("centrallatitude", "90"))
        west, south = (float(word) for word in image.comments["bottomleft"].split())
        width, height = (float(image.comments[f"metersperpixel_{axis}"]) for axis in "xy")
    except (KeyError, ValueError) as error:
        raise UserError(f"expected an FMI header with its projection, got {path}, which lacks {error}") from error
    if kind != "stereographic" or pole != 90.0:
        raise UserError(f"expected a north polar stereographic grid, got {kind} at {pole} degrees in {path.name}")
    x0, bottom = spherical_stereographic(
        west, south, central_longitude=central, true_latitude=true, radius=EARTH_RADIUS
    )
    crs = polar_stereographic_attributes(
        central_longitude=central, true_latitude=true, semi_major=EARTH_RADIUS, semi_minor=EARTH_RADIUS
    )
    rows, columns = image.pixels.shape
    return Grid((rows, columns), x0, bottom + rows * height, (width, -height), "m", crs)
