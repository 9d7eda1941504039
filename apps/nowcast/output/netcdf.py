"""Nowcasts as netCDF 4, a member at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from apps.nowcast.output.layout import FILL, Layout


class NetcdfWriter:
    """Writes the variables of a layout to `path`, which is nobody's yet: see `formats.opened`."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.layout = layout
        self.file = netCDF4.Dataset(path, "w", format="NETCDF4")
        for name, size in layout.dimensions.items():
            self.file.createDimension(name, size)
        for name, variable in layout.variables.items():
            rows, columns = layout.place.shape
            if variable.data is None:
                chunks = (1,) * (len(variable.dimensions) - 2) + (rows, columns)
                made = self.file.createVariable(
                    name, variable.dtype, variable.dimensions, fill_value=FILL,
                    compression="zlib", complevel=4, shuffle=True, chunksizes=chunks,
                )  # fmt: skip
            else:
                compression = "zlib" if len(variable.dimensions) == 2 else None
                made = self.file.createVariable(
                    name, variable.dtype, variable.dimensions, fill_value=False, compression=compression
                )
                made[...] = variable.data
            made.setncatts(dict(variable.attributes))

    def write(self, name: str, index: int | None, fields: np.ndarray) -> None:
        """Fields (time, y, x), NaN missing, of member or threshold `index`, of the whole variable where None."""
        filled = np.where(np.isnan(fields), FILL, fields)
        self.file.variables[name][... if index is None else index] = filled

    def attributes(self, values: Mapping[str, Any]) -> None:
        """Attributes of the whole file."""
        self.file.setncatts(dict(values))

    def close(self) -> None:
        self.file.close()
