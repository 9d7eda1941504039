"""Nowcasts as one GeoTIFF of many bands: every member at every lead time, then means, then probabilities.

Band (member m, lead k) of L leads is m L + k + 1, as the bands' descriptions say. GeoTIFF has no place for CF
attributes: they stand in the file's tags, under the same names. Needs the package rasterio.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from apps.nowcast.output.georeference import affine, well_known_text
from apps.nowcast.output.layout import FILL, Layout
from data_tools.cli import UserError

_BLOCK = 256
_MOST_BANDS = 65535


def require_rasterio() -> None:
    """Raise UserError unless GeoTIFFs can be written."""
    if find_spec("rasterio") is None:
        raise UserError("expected the package rasterio to write GeoTIFF, got none: pip install 'spanlift[geotiff]'")


class GeotiffWriter:
    """Writes the fields of a layout to `path`, which is nobody's yet: see `formats.opened`."""

    def __init__(self, path: Path, layout: Layout) -> None:
        require_rasterio()
        import rasterio
        from rasterio.transform import Affine

        self.layout, self.first_bands, count = layout, {}, 1
        leads = len(layout.valid_times)
        for name, variable in layout.variables.items():
            if variable.is_field:
                self.first_bands[name] = count
                count += int(np.prod([layout.dimensions[dimension] for dimension in variable.dimensions[:-2]]))
        if count - 1 > _MOST_BANDS:
            raise UserError(f"expected at most {_MOST_BANDS} bands of a GeoTIFF, got {count - 1}: write a .nc or .zarr")
        rows, columns = layout.place.shape
        tiled = {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK} if min(rows, columns) >= _BLOCK else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of places without a projection
            self.file = rasterio.open(
                path, "w", driver="GTiff", width=columns, height=rows, count=count - 1, dtype="float32",
                crs=well_known_text(layout.place), transform=Affine(*affine(layout.place)), nodata=float(FILL),
                compress="deflate", interleave="band", BIGTIFF="IF_SAFER", **tiled,
            )  # fmt: skip
        for name, first in self.first_bands.items():
            for band in range(first, first + self._bands(name)):
                self.file.set_band_description(band, self._describe(name, *divmod(band - first, leads)))
                self.file.set_band_unit(band, str(layout.variables[name].attributes["units"]))

    def _bands(self, name: str) -> int:
        dimensions = self.layout.variables[name].dimensions[:-2]
        return int(np.prod([self.layout.dimensions[dimension] for dimension in dimensions]))

    def _describe(self, name: str, outer: int, lead: int) -> str:
        minutes = int((self.layout.valid_times[lead] - self.layout.init_time) / np.timedelta64(1, "s")) / 60
        which = {
            self.layout.quantity.name: f" member {outer}",
            self.layout.mean_name: "",
        }.get(name)
        if which is None:
            which = f" of {self.layout.thresholds[outer]:g} {self.layout.quantity.units}"
        return f"{name}{which} +{minutes:g} min"

    def write(self, name: str, index: int | None, fields: np.ndarray) -> None:
        """Fields (time, y, x), NaN missing, of member or threshold `index`, of the whole variable where None."""
        first = self.first_bands[name] + (index or 0) * len(fields)
        if not self.layout.place.north_up:
            fields = fields[:, ::-1]
        for lead, field in enumerate(fields):
            self.file.write(np.where(np.isnan(field), FILL, field).astype(np.float32), first + lead)

    def attributes(self, values: Mapping[str, Any]) -> None:
        """Tags of the whole file."""
        self.file.update_tags(**{key: str(value) for key, value in values.items()})

    def close(self) -> None:
        self.file.close()
