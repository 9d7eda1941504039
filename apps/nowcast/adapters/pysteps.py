"""pysteps: its arrays and metadata from our datasets and back, and our forecast under a name among its nowcast methods.

pysteps' rain is (members, times, rows, columns) or fewer dimensions of it, with metadata in a dictionary: PROJ.4
`projection`, outer corners `x1`, `y1` (lower left), `x2`, `y2` (upper right), `yorigin` (at which border row 0 lies),
`unit`, `transform`, `threshold`, `zerovalue`, `accutime`, `timestamps`.

    precip, metadata = to_pysteps(xarray.open_dataset("nowcast.nc"))
    dataset = from_pysteps(precip, metadata)

    register()
    members = pysteps.nowcasts.get_method("spanlift")(rain_mm_h, None, 6, n_ens_members=20, seed=1)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import xarray as xr

from apps.nowcast.adapters.nowcasting import PystepsNowcast
from apps.nowcast.adapters.projections import mapping_of, proj4_of
from apps.nowcast.adapters.units import Transform, Unit, from_rate, to_rate
from apps.nowcast.forecasting.scene import Place
from apps.nowcast.output.layout import Layout
from apps.nowcast.pysteps_calls import quietly, require_pysteps
from data_tools.quantities import RAINFALL_RATE

__all__ = ["from_pysteps", "register", "to_pysteps"]

_ORDER = ("realization", "time", "y", "x")
_BEGUN = "forecast_reference_time"


def to_pysteps(
    dataset: xr.Dataset, *, unit: Unit = "mm/h", transform: Transform = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Rain of a forecast file of ours, or of one event of an event store, as pysteps has it.

    Args:
        dataset: with `rainfall_rate` (realization, time, y, x), as apps.nowcast.forecast writes it, or (time, y, x), an
            event store opened by xarray after `.isel(event=...)`.
        unit, transform: of the array; dBZ by Z = 200 R^1.6.

    Returns:
        (array float64 of the same dimensions, rows as they are in the dataset, NaN missing; metadata). `accutime` is
        the time between frames; of one frame alone its lead time, or the store's step, or None where nothing tells.
        When the forecast began stands in the metadata as `forecast_reference_time`, which pysteps leaves alone.

    Raises:
        ValueError: no rain rates, more events than one, uneven axes or times, depths of unknown time, an unknown grid
            mapping, unit or transform.
    """
    if RAINFALL_RATE.name not in dataset:
        raise ValueError(
            f"expected {RAINFALL_RATE.name} in the dataset, got {', '.join(map(str, dataset.data_vars))}; "
            "pysteps knows rain and reflectivity, and VIL is neither"
        )
    variable = dataset[RAINFALL_RATE.name]
    if not set(variable.dims) <= set(_ORDER) or not {"y", "x"} <= set(variable.dims):
        raise ValueError(f"expected dimensions among {', '.join(_ORDER)}, got {variable.dims}; choose an event by isel")
    times = _times(dataset)
    rate = variable.transpose(*(name for name in _ORDER if name in variable.dims)).to_numpy()
    values, metadata = from_rate(rate, unit, transform, _step_minutes(dataset, times))
    x, y = _axis(dataset, "x"), _axis(dataset, "y")
    width, height = x[1] - x[0], abs(y[1] - y[0])
    mapping = dataset["crs"].attrs if "crs" in dataset.variables else {}
    if _BEGUN in dataset.variables:
        metadata[_BEGUN] = dataset[_BEGUN].to_numpy().astype("datetime64[s]").item()
    return values, metadata | {
        "projection": proj4_of(mapping),
        "x1": x[0] - width / 2, "x2": x[-1] + width / 2,
        "y1": y.min() - height / 2, "y2": y.max() + height / 2,
        "xpixelsize": width, "ypixelsize": height,
        "cartesian_unit": "degrees" if str(dataset["x"].attrs.get("units", "m")).startswith("degree") else "m",
        "yorigin": "upper" if y[0] > y[-1] else "lower",
        "institution": str(dataset.attrs.get("institution") or dataset.attrs.get("source", "unknown")),
        "timestamps": np.array([_datetime(time) for time in times]),
    }  # fmt: skip


def from_pysteps(
    precip: np.ndarray, metadata: Mapping[str, Any], *, start: datetime | None = None, step_minutes: float | None = None
) -> xr.Dataset:
    """A CF-1.11 dataset, as apps.nowcast.forecast writes it, of rain that pysteps forecast.

    Args:
        precip: (rows, columns), (times, rows, columns) or (members, times, rows, columns), NaN missing.
        metadata: of pysteps' importers; `timestamps` are taken for the valid times where there is one for each frame.
        start: when the forecast began, UTC; by default what `to_pysteps` left in the metadata, else a step before the
            first valid time.
        step_minutes: between frames; `accutime` by default.

    Returns:
        `rainfall_rate` (realization, time, y, x) in kg m-2 h-1 (the number of mm/h), coordinates in metres or degrees,
        rows in the order they came in.

    Raises:
        ValueError: another number of dimensions, no times, an unknown unit, transform or projection.
    """
    values = np.asarray(precip)
    if not 2 <= values.ndim <= 4:
        raise ValueError(f"expected rain of 2 to 4 dimensions, got shape {values.shape}")
    values = values.reshape((1,) * (4 - values.ndim) + values.shape)
    begun, valid = _valid_times(values.shape[1], metadata, start, step_minutes)
    layout = Layout(RAINFALL_RATE, _place(values.shape[2:], metadata), begun, valid, len(values))
    variables = {}
    for name, each in layout.variables.items():
        data = to_rate(values, metadata) if each.data is None else each.data
        variables[name] = xr.Variable(each.dimensions, data, dict(each.attributes))
    # xarray keeps auxiliary coordinates in `coordinates` by itself
    beside = [name for name in ("lead_time", "forecast_reference_time", "longitude", "latitude") if name in variables]
    variables[RAINFALL_RATE.name].attrs.pop("coordinates", None)
    attributes = {
        "Conventions": "CF-1.11",
        "title": f"nowcast of rainfall rate from {begun}Z",
        "institution": str(metadata.get("institution", "unknown")),
        "source": "pysteps",
        "history": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: spanlift from_pysteps",
    }
    return xr.decode_cf(xr.Dataset(variables, attrs=attributes)).set_coords(beside)


def register(
    name: str = "spanlift", *, model: str | None = None, solver: str | None = None, device: str = "cpu"
) -> PystepsNowcast:
    """Put our forecast among pysteps' methods, so that `pysteps.nowcasts.get_method(name)` gives it.

    Args:
        name: of the method, small letters.
        model: folder of a model; the one that ships by default.
        solver: a trained solver, or NAME-STEPS such as ddim-20; the shipped one, or ddim-20 with a model of one's own.
        device: where to sample.

    Raises:
        UserError: pysteps is not installed, or model or solver are not what they should be.
        ValueError: another method of pysteps has that name.
    """
    require_pysteps("its method spanlift")
    method = PystepsNowcast.load(model, solver, device)
    with quietly():
        from pysteps.nowcasts import interface  # pyright: ignore[reportMissingImports]

    known = interface._nowcast_methods.get(name, method)
    if name != name.lower() or not isinstance(known, PystepsNowcast):
        raise ValueError(f"expected a name in small letters that pysteps has no method of, got {name!r}")
    interface._nowcast_methods[name] = method  # it has no entry point for nowcasts
    return method


def _times(dataset: xr.Dataset) -> np.ndarray:
    if "time" not in dataset.variables:
        return np.empty(0, "datetime64[s]")
    times = np.atleast_1d(dataset["time"].to_numpy())
    if times.dtype.kind != "M":
        raise ValueError(f"expected times that xarray has decoded, got {times.dtype}; open with decode_times=True")
    return times.astype("datetime64[s]")


def _step_minutes(dataset: xr.Dataset, times: np.ndarray) -> float | None:
    steps = np.diff(times).astype("timedelta64[s]").astype(np.float64)
    if len(steps):
        if not (steps == steps[0]).all() or steps[0] <= 0:
            raise ValueError(f"expected evenly spaced, rising times, got steps of {steps[:5]} seconds and so on")
        return float(steps[0]) / 60.0
    if len(times) and _BEGUN in dataset.variables:
        lead = (times[0] - dataset[_BEGUN].to_numpy()).astype("timedelta64[s]").astype(np.float64)
        return float(lead) / 60.0
    seconds = dataset.attrs.get("time_step_seconds")
    return None if seconds is None else float(seconds) / 60.0


def _datetime(time: np.datetime64) -> datetime:
    return time.astype("datetime64[s]").astype(datetime)


def _axis(dataset: xr.Dataset, name: str) -> np.ndarray:
    """Pixel centres in projection coordinates; those of an event store count from the crop's corner."""
    if name not in dataset.variables:
        raise ValueError(f"expected coordinates {name} of the pixels, got none")
    centres = np.asarray(dataset[name].to_numpy(), np.float64)
    if f"{name}_origin" in dataset.variables:
        centres = centres + float(dataset[f"{name}_origin"].to_numpy())
    steps = np.diff(centres)
    if not len(steps) or not np.allclose(steps, steps[0], rtol=1e-3) or (name == "x" and steps[0] <= 0):
        raise ValueError(f"expected two or more evenly spaced {name}, x rising, got {centres[:3]} and so on")
    return centres


def _valid_times(
    count: int, metadata: Mapping[str, Any], start: datetime | None, step_minutes: float | None
) -> tuple[np.datetime64, np.ndarray]:
    """(when the forecast began, valid times) datetime64[s]."""
    minutes = step_minutes or metadata.get("accutime")
    stamps = metadata.get("timestamps")
    told = stamps is not None and len(stamps) == count
    if not told and start is None:
        raise ValueError(f"expected {count} timestamps in the metadata, or start, got neither")
    if not minutes or not minutes > 0:
        raise ValueError("expected step_minutes, or accutime in the metadata, got neither")
    step = timedelta(minutes=float(minutes))
    if told:
        valid = np.array([np.datetime64(_naive(stamp), "s") for stamp in stamps])  # type: ignore[union-attr]
        start = start or metadata.get(_BEGUN)
        begun = valid[0] - np.timedelta64(step) if start is None else np.datetime64(_naive(start), "s")
        return begun.astype("datetime64[s]"), valid
    assert start is not None
    valid = np.array([np.datetime64(_naive(start) + k * step, "s") for k in range(1, count + 1)])
    return np.datetime64(_naive(start), "s"), valid


def _naive(time: datetime) -> datetime:
    """UTC without saying so, as numpy wants it."""
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def _place(shape: tuple[int, ...], metadata: Mapping[str, Any]) -> Place:
    rows, columns = shape
    names = ("projection", "x1", "x2", "y1", "y2", "yorigin")
    if missing := [name for name in names if name not in metadata]:
        raise ValueError(f"expected {', '.join(names)} in the metadata, got no {', '.join(missing)}")
    unit, proj4 = metadata.get("cartesian_unit", "m"), str(metadata["projection"])
    if unit not in {"m", "km", "degrees"} or metadata["yorigin"] not in {"upper", "lower"}:
        raise ValueError(
            f"expected cartesian_unit m, km or degrees and yorigin upper or lower, got {unit!r} and "
            f"{metadata['yorigin']!r}"
        )
    scale = 1000.0 if unit == "km" else 1.0
    west, east, south, north = (scale * float(metadata[name]) for name in names[1:5])
    x = west + (np.arange(columns) + 0.5) * (east - west) / columns
    y = south + (np.arange(rows) + 0.5) * (north - south) / rows
    mapping = mapping_of(proj4.replace("+units=km", "+units=m"))
    return Place(x, y[::-1] if metadata["yorigin"] == "upper" else y, "degrees" if unit == "degrees" else "m", mapping)
