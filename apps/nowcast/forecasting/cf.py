"""CF netCDF files and Zarr stores as sources of frames: variables found by standard name, units converted."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from apps.nowcast.forecasting.scene import Place
from apps.nowcast.forecasting.units import to_rate
from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE, Quantity

STANDARD_NAMES = (
    "rainfall_flux", "rainfall_rate", "precipitation_flux", "lwe_precipitation_rate", "lwe_rainfall_rate",
    "equivalent_reflectivity_factor",
)  # fmt: skip
"""The earlier in the list, the rather it is taken."""

NAMES = (
    "rainfall_rate",
    "rain_rate",
    "rr",
    "mmh",
    "rare",
    "precip_intensity",
    "precipitation_rate",
    "dbz",
    "reflectivity",
)
"""Names of variables that stand for a missing standard name; pysteps' and MLCast's among them."""

_AXES = {
    "x": ("projection_x_coordinate", "longitude", "grid_longitude"),
    "y": ("projection_y_coordinate", "latitude", "grid_latitude"),
    "time": ("time",),
}
_LENGTHS = {
    **dict.fromkeys(("km", "kilometre", "kilometer", "kilometres", "kilometers"), 1000.0),
    **dict.fromkeys(("m", "metre", "meter", "metres", "meters"), 1.0),
}  # fmt: skip
"""Metres in a unit of length."""

_GDAL = ("crs_wkt", "spatial_ref", "GeoTransform")
"""Attributes of a grid mapping that repeat the others, and the grid, in the file's own unit of length."""

_UNEVEN = 0.05
"""Of a pixel: how unevenly coordinates may be spaced, as many files keep them in single precision."""


@dataclass(frozen=True)
class CfFile:
    """A variable (time, y, x) of a netCDF file or Zarr store.

    Attributes:
        order: indices along its time axis, in the order of time.
        valid: (lowest, highest) value that is none of a code for missing, before conversion of units.
    """

    path: Path
    variable: xr.DataArray
    place: Place
    times: np.ndarray
    order: np.ndarray
    title: str
    notes: tuple[str, ...]
    valid: tuple[float, float]
    usual_step: int | None = None
    quantity: Quantity = RAINFALL_RATE

    @classmethod
    def open(cls, path: Path) -> CfFile:
        """Find the rain of a file.

        Raises:
            UserError: not such a file, no rain in it, other dimensions than time, y, x, uneven coordinates, or two
                frames of one time.
        """
        with _explained(path):
            dataset = xr.open_zarr(path, chunks=None) if path.is_dir() else xr.open_dataset(path, engine="netcdf4")
            variable = _rain(dataset, path)
            axes = _axes(variable, path)
            extra = [name for name in variable.dims if name not in axes.values()]
            many = [f"{name} of {variable.sizes[name]}" for name in extra if variable.sizes[name] != 1]
            if many:
                got = ", ".join(many)
                raise UserError(f"expected {variable.name} (time, y, x) in {path}, got a dimension {got}: choose one")
            variable = variable.isel(dict.fromkeys(extra, 0)).transpose(*(axes[a] for a in ("time", "y", "x")))
            place = _place(dataset, variable, path)
            times, order, notes = _times(variable, path)
            title = dataset.attrs.get("title") or dataset.attrs.get("source") or path.name
            licence = dataset.attrs.get("license") or dataset.attrs.get("licence") or "licence not told"
            about = f"{str(title)[:200]}; {str(licence)[:100]}"
            if flags := str(variable.attrs.get("ancillary_variables", ""))[:100]:
                notes += (f"quality flags in {flags} were not looked at",)
            return cls(path, variable, place, times, order, about, notes, _valid(variable))

    @property
    def name(self) -> str:
        return self.path.name

    def read(self, index: int) -> tuple[np.ndarray, Place, tuple[str, ...]]:
        with _explained(self.path):
            values = np.array(self.variable[int(self.order[index])].to_numpy(), np.float64)
            values[(values < self.valid[0]) | (values > self.valid[1])] = np.nan
        rate, notes = to_rate(values, self.variable.attrs.get("units", ""), f"{self.variable.name} of {self.path.name}")
        return rate, self.place, notes


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Put what xarray and the libraries under it say about a file in one line, and their warnings nowhere."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # every library beneath answers to damage in its own way
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"expected a CF netCDF file or Zarr store, got {path}: {reason}") from error


def _rain(dataset: xr.Dataset, path: Path) -> xr.DataArray:
    """The variable that holds rain."""
    fields: dict[str, xr.DataArray] = {str(name): v for name, v in dataset.data_vars.items() if v.ndim >= 2}
    for standard in STANDARD_NAMES:
        found = [name for name, v in fields.items() if v.attrs.get("standard_name") == standard]
        if len(found) > 1:
            raise UserError(f"expected one variable of {standard} in {path}, got {', '.join(found)}: leave one")
        if found:
            return fields[found[0]]
    named = [name for name in NAMES if name in fields]
    if not named:
        got = ", ".join(list(fields)[:8]) or "no fields"
        raise UserError(f"expected a variable with standard_name {STANDARD_NAMES[0]} in {path}, got {got}")
    return fields[named[0]]


def _axes(variable: xr.DataArray, path: Path) -> dict[str, Any]:
    """Dimension of each of time, y and x: by its coordinate's axis or standard name, else by its own name."""
    found: dict[str, Any] = {}
    for axis, standards in _AXES.items():
        letter = "T" if axis == "time" else axis.upper()
        for name in variable.dims:
            attrs = variable[name].attrs if name in variable.coords else {}
            if attrs.get("axis") == letter or attrs.get("standard_name") in standards:
                found.setdefault(axis, name)
        for name in variable.dims:
            if str(name).lower() in {axis, *standards, {"x": "lon", "y": "lat"}.get(axis, axis)}:
                found.setdefault(axis, name)
    if len(set(found.values())) < 3:
        got = ", ".join(map(str, variable.dims))
        raise UserError(f"expected dimensions time, y and x of {variable.name} in {path}, got {got}: name their axes")
    return found


def _place(dataset: xr.Dataset, variable: xr.DataArray, path: Path) -> Place:
    _, y, x = (variable[name] if name in variable.coords else None for name in variable.dims)
    if x is None or y is None:
        raise UserError(f"expected coordinates of {', '.join(map(str, variable.dims[1:]))} in {path}, got none")
    units = [str(axis.attrs.get("units", "")).strip() for axis in (x, y)]
    degrees = [unit.startswith("degree") for unit in units]
    if degrees[0] != degrees[1] or not all(unit in _LENGTHS or unit.startswith("degree") for unit in units):
        got = " and ".join(repr(unit[:40]) for unit in units)
        raise UserError(f"expected x and y in m, km or degrees in {path}, got units {got}: write the attributes")
    factors = [_LENGTHS.get(unit, 1.0) for unit in units]
    centres = []
    for axis, factor in zip((x, y), factors, strict=True):
        values = np.asarray(axis.to_numpy(), np.float64) * factor
        steps = np.diff(values)
        if not values.size or not np.isfinite(values).all() or (steps.size and not _even(steps)):
            raise UserError(f"expected evenly spaced {axis.name} in {path}, got others")
        centres.append(values)
    name = str(variable.attrs.get("grid_mapping") or variable.encoding.get("grid_mapping") or "").partition(":")[0]
    crs = dict(dataset[name].attrs) if name and name in dataset.variables else {}
    if set(factors) != {1.0}:  # what is told in the file's own unit of length holds no more
        eastings = zip(("false_easting", "false_northing"), factors, strict=True)
        crs |= {key: float(crs[key]) * factor for key, factor in eastings if key in crs}
        crs = {key: value for key, value in crs.items() if key not in _GDAL}
    if not crs and degrees[0]:
        crs = {
            "grid_mapping_name": "latitude_longitude",
            "semi_major_axis": 6378137.0,
            "inverse_flattening": 298.257223563,
        }
    return Place(centres[0], centres[1], "degrees" if degrees[0] else "m", crs)


def _valid(variable: xr.DataArray) -> tuple[float, float]:
    """Lowest and highest value that counts, of the attributes valid_range, valid_min and valid_max.

    They are in packed values where the data are packed, unless they are fractions of packed integers (netCDF User
    Guide, appendix A).
    """
    attrs, packing = variable.attrs, variable.encoding
    given = attrs.get("valid_range", (attrs.get("valid_min", -np.inf), attrs.get("valid_max", np.inf)))
    low, high = (np.asarray(value) for value in given)
    scale, offset = (float(packing.get(name, default)) for name, default in (("scale_factor", 1.0), ("add_offset", 0)))
    integers = np.dtype(packing.get("dtype", variable.dtype)).kind in "iu"
    ends = [float(end) if integers and end.dtype.kind == "f" else float(end) * scale + offset for end in (low, high)]
    if integers:  # half a step: ends and values are unpacked in different floating points
        return min(ends) - abs(scale) / 2, max(ends) + abs(scale) / 2
    least, greatest = np.array([min(ends), max(ends)]).astype(variable.dtype)  # as the values are rounded
    return float(least), float(greatest)


def _even(steps: np.ndarray) -> bool:
    return bool(steps[0] != 0.0 and (np.abs(steps - steps[0]) <= _UNEVEN * abs(steps[0])).all())


def _times(variable: xr.DataArray, path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(rising times, their indices along the axis, what was odd about them)."""
    values = variable[variable.dims[0]].to_numpy() if variable.dims[0] in variable.coords else np.empty(0)
    if values.dtype.kind != "M" or not values.size or np.isnat(values).any():
        raise UserError(f"expected times in {path} with units like 'seconds since 1970-01-01', got others")
    order = np.argsort(values, kind="stable")
    times = values[order].astype("datetime64[s]")
    if (np.diff(times) == np.timedelta64(0, "s")).any():
        twice = times[1:][np.diff(times) == np.timedelta64(0, "s")][0]
        raise UserError(f"expected one frame a time in {path}, got several of {twice}: leave one")
    sorted_already = bool((order == np.arange(len(order))).all())
    return times, order, () if sorted_already else ("frames were not in the order of time and were sorted",)
