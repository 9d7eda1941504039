"""The variables of a nowcast file and their attributes, after CF 1.11, for whatever format writes them.

Dimensions are (realization, time, y, x). `time` is the valid time, `lead_time` counts from the scalar
`forecast_reference_time`. Probabilities add a dimension `threshold`. Pixels that no frame showed are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from apps.nowcast.forecasting.scene import Place
from apps.nowcast.output.georeference import grid_mapping, longitude_latitude
from data_tools.quantities import Quantity

FILL = np.float32(-9999.0)
EPOCH = "seconds since 1970-01-01 00:00:00"
_CRS = "crs"


@dataclass(frozen=True)
class Variable:
    """A variable of the file.

    Attributes:
        dimensions: names of them.
        dtype: numpy's.
        attributes: CF attributes, without the fill value.
        data: its values; None for fields, which are written later, piece by piece.
    """

    dimensions: tuple[str, ...]
    dtype: str
    attributes: Mapping[str, Any]
    data: np.ndarray | None = None

    @property
    def is_field(self) -> bool:
        return self.data is None


@dataclass(frozen=True)
class Layout:
    """What a file holds.

    Attributes:
        quantity: of the fields.
        place: where the pixels are.
        init_time, valid_times: datetime64[s], UTC.
        members: number of them.
        thresholds: whose probabilities of exceedance are written; empty for none.
        mean: whether the ensemble mean is written.
    """

    quantity: Quantity
    place: Place
    init_time: np.datetime64
    valid_times: np.ndarray
    members: int
    thresholds: tuple[float, ...] = ()
    mean: bool = False

    @property
    def dimensions(self) -> dict[str, int]:
        rows, columns = self.place.shape
        sizes = {"realization": self.members, "time": len(self.valid_times), "y": rows, "x": columns}
        return sizes | ({"threshold": len(self.thresholds)} if self.thresholds else {})

    @property
    def mean_name(self) -> str:
        return f"{self.quantity.name}_mean"

    @property
    def probability_name(self) -> str:
        return f"{self.quantity.name}_probability"

    @cached_property
    def variables(self) -> dict[str, Variable]:
        """All variables by name, coordinates first."""
        seconds = self.valid_times.astype("datetime64[s]").astype(np.int64).astype(np.float64)
        start = float(self.init_time.astype("datetime64[s]").astype(np.int64))
        clock = {"units": EPOCH, "calendar": "standard", "units_metadata": "leap_seconds: none"}
        found = {
            "realization": Variable(
                ("realization",), "i4",
                {"standard_name": "realization", "long_name": "ensemble member", "units": "1"},
                np.arange(self.members, dtype=np.int32),
            ),
            "time": Variable(
                ("time",), "f8", {"standard_name": "time", "long_name": "valid time", "axis": "T", **clock}, seconds
            ),
            "lead_time": Variable(
                ("time",), "f8",
                {"standard_name": "forecast_period", "long_name": "time since the nowcast began", "units": "s"},
                seconds - start,
            ),
            "forecast_reference_time": Variable(
                (), "f8",
                {"standard_name": "forecast_reference_time", "long_name": "time of the last observation", **clock},
                np.array(start),
            ),
            **self._horizontal,
        }  # fmt: skip
        if self.thresholds:
            attributes = {"long_name": f"threshold of {self.quantity.long_name}", "units": self.quantity.units}
            found["threshold"] = Variable(("threshold",), "f4", attributes, np.array(self.thresholds, np.float32))
        return found | self._fields()

    @cached_property
    def _horizontal(self) -> dict[str, Variable]:
        place = self.place
        if place.is_geographic:
            axes = {
                "x": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
                "y": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
            }
        else:
            named = {"x": "grid_longitude", "y": "grid_latitude"}
            axes = {
                axis: {
                    "standard_name": named[axis] if place.is_rotated else f"projection_{axis}_coordinate",
                    "long_name": f"{axis} of pixel centres",
                    "units": place.units,
                    "axis": axis.upper(),
                }
                for axis in "xy"
            }
        found = {name: Variable((name,), "f8", axes[name], getattr(place, name)) for name in "yx"}
        mapping = grid_mapping(place)
        if mapping:
            found[_CRS] = Variable((), "i4", mapping, np.array(0, np.int32))
        degrees = longitude_latitude(place)
        if degrees is not None:
            for name, values, unit in zip(
                ("longitude", "latitude"), degrees, ("degrees_east", "degrees_north"), strict=True
            ):
                attributes = {"standard_name": name, "long_name": name, "units": unit}
                found[name] = Variable(("y", "x"), "f4", attributes, values.astype(np.float32))
        return found

    def _fields(self) -> dict[str, Variable]:
        quantity, horizontal = self.quantity, self._horizontal
        beside = ["forecast_reference_time", "lead_time", *(n for n in ("latitude", "longitude") if n in horizontal)]
        common: dict[str, Any] = {"coordinates": " ".join(beside)}
        if _CRS in horizontal:
            common["grid_mapping"] = _CRS
        named = {"standard_name": quantity.standard_name} if quantity.standard_name else {}
        physical = {**named, "units": quantity.units}
        found = {
            quantity.name: Variable(
                ("realization", "time", "y", "x"), "f4",
                {**physical, "long_name": quantity.long_name, "cell_methods": "time: point", **common},
            )
        }  # fmt: skip
        if self.mean:
            about = {"long_name": f"ensemble mean of {quantity.long_name}"}
            methods = {"cell_methods": "time: point"}  # of realization CF has none, as the mean has no such axis
            found[self.mean_name] = Variable(("time", "y", "x"), "f4", {**physical, **about, **methods, **common})
        if self.thresholds:
            about = {"long_name": f"share of members with {quantity.long_name} at the threshold or above", "units": "1"}
            found[self.probability_name] = Variable(("threshold", "time", "y", "x"), "f4", {**about, **common})
        return found
