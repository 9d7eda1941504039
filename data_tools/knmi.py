"""KNMI's 5-minute rainfall composite: one HDF5 file a frame, in KNMI's HDF5 image format 3.5.

The image holds rainfall accumulated over the interval that the header names; rate = accumulation / interval.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_tools.archive import MISSING, RATE_STEP, Grid, on_one_grid, parse_stamp
from data_tools.cli import UserError
from data_tools.projection import polar_stereographic_attributes

_NAME = re.compile(r"RAD_NL25_R[A-Z]{2}_5min_([0-9]{12})(?:_.*)?\.h5")
_NUMBER = r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_FORMULA = re.compile(rf"GEO\s*=\s*{_NUMBER}\s*\*\s*PV\s*(?:([-+])\s*{_NUMBER})?")


@dataclass(frozen=True)
class Knmi:
    """KNMI composite of the radars of De Bilt and Den Helder."""

    name: str = "knmi"
    source: str = "KNMI 5-minute accumulated rainfall composite (RAD_NL25_RAP_5min)"
    licence: str = "KNMI open data (https://dataplatform.knmi.nl)"
    step_seconds: int = 300
    rate: str = "accumulation over the interval in the header / interval"

    def time_of(self, path: Path) -> np.datetime64 | None:
        match = _NAME.fullmatch(path.name)
        return parse_stamp(match.group(1)) if match else None

    def grid(self, path: Path) -> Grid:
        with _opened(path) as file:
            return _grid(path, file["geographic"])

    def read(self, paths: Sequence[Path]) -> Iterator[np.ndarray]:
        return on_one_grid((path, *self._frame(path)) for path in paths)

    def _frame(self, path: Path) -> tuple[Grid, np.ndarray]:
        with _opened(path) as file:
            grid = _grid(path, file["geographic"])
            image = file["image1"]
            if _text(image.attrs["image_geo_parameter"]) != "ACCUMULATED_PRECIPITATION_[MM]":
                got = _text(image.attrs["image_geo_parameter"])
                raise UserError(f"expected accumulated precipitation in mm, got {got} in {path.name}")
            gain, offset = parse_formula(_text(image["calibration"].attrs["calibration_formulas"]))
            calibration = image["calibration"].attrs
            missing = {int(calibration[f"calibration_{key}"][0]) for key in ("missing_data", "out_of_image")}
            begin, end = (_moment(file["overview"].attrs[f"product_datetime_{key}"]) for key in ("start", "end"))
            if end != self.time_of(path):
                raise UserError(f"expected the time in the name, got {end} in the header of {path.name}")
            if end <= begin:
                raise UserError(f"expected an accumulation over some minutes, got {begin} to {end} in {path.name}")
            pixels = image["image_data"][...]
        hours = (end - begin) / np.timedelta64(1, "h")
        rate = (gain * pixels.astype(np.float32) + offset) / hours  # mm / h
        codes = np.rint(rate / RATE_STEP).clip(0, MISSING - 1)
        return grid, np.where(np.isin(pixels, list(missing)), MISSING, codes).astype(np.uint16)


def parse_formula(text: str) -> tuple[float, float]:
    """(gain, offset) of KNMI's `GEO=gain*PV+offset`.

    Raises `ValueError` for any other formula.
    """
    match = _FORMULA.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a calibration GEO=gain*PV+offset, got {text!r}")
    gain, sign, offset = match.groups()
    return float(gain), float(offset or 0.0) * (-1.0 if sign == "-" else 1.0)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an HDF5 file and put whatever is wrong with it, while it is open, in one line."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (KeyError, OSError, ValueError, IndexError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"expected a KNMI radar image (HDF5), got {path}, truncated or foreign: {reason}") from error


def _text(value: Any) -> str:
    value = np.asarray(value).reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else str(value)


def _moment(value: Any) -> np.datetime64:
    """KNMI's `26-AUG-2010;00:05:00.000`, in which months are spelt in English whatever the locale."""
    day, month, rest = _text(value).split("-", 2)
    year, clock = rest.split(";")
    number = _MONTHS.index(month.upper()) + 1
    return np.datetime64(datetime.fromisoformat(f"{year}-{number:02d}-{int(day):02d}T{clock}"), "s")


def _grid(path: Path, geographic: Any) -> Grid:
    """The grid that the group `geographic` of a file describes."""
    shape = (int(geographic.attrs["geo_number_rows"][0]), int(geographic.attrs["geo_number_columns"][0]))
    width, height = (float(geographic.attrs[f"geo_pixel_size_{axis}"][0]) * 1e3 for axis in "xy")
    column, row = (float(geographic.attrs[f"geo_{axis}_offset"][0]) for axis in ("column", "row"))
    crs = _crs(path, _text(geographic["map_projection"].attrs["projection_proj4_params"]))
    return Grid(shape, column * width, row * height, (width, height), "m", crs)


def _crs(path: Path, proj4: str) -> dict[str, Any]:
    words = dict(word.lstrip("+").split("=", 1) for word in proj4.split() if "=" in word)
    if words.get("proj") != "stere" or float(words.get("lat_0", 0.0)) != 90.0:
        raise UserError(f"expected a north polar stereographic grid, got {proj4!r} in {path.name}")
    semi_axes = [float(words[key]) * (1e3 if float(words[key]) < 1e4 else 1.0) for key in ("a", "b")]  # KNMI writes km
    return polar_stereographic_attributes(
        central_longitude=float(words["lon_0"]),
        true_latitude=float(words["lat_ts"]),
        semi_major=semi_axes[0],
        semi_minor=semi_axes[1],
    )
