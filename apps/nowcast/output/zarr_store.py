"""Nowcasts as Zarr v3 stores, a member at a time; xarray opens them.

Missing pixels are NaN and so is the fill value: xarray and other readers do not agree on how an attribute `_FillValue`
of a Zarr v3 store is spelt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from apps.nowcast.output.layout import Layout


class ZarrWriter:
    """Writes the variables of a layout to the folder `path`, which is nobody's yet: see `formats.opened`."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.group = zarr.open_group(str(path), mode="w", zarr_format=3)
        sizes = layout.dimensions
        for name, variable in layout.variables.items():
            shape = tuple(sizes[dimension] for dimension in variable.dimensions)
            chunks = (
                (1,) * (len(shape) - 2) + shape[-2:] if variable.is_field else tuple(max(size, 1) for size in shape)
            )
            made = self.group.create_array(
                name, shape=shape, dtype=variable.dtype, chunks=chunks or "auto",
                fill_value=float("nan") if variable.is_field else 0, dimension_names=variable.dimensions,
                compressors=ZstdCodec(level=3), config={"write_empty_chunks": True},
            )  # fmt: skip
            made.attrs.update({key: _plain(value) for key, value in variable.attributes.items()})
            if variable.data is not None:
                made[...] = variable.data

    def write(self, name: str, index: int | None, fields: np.ndarray) -> None:
        """Fields (time, y, x), NaN missing, of member or threshold `index`, of the whole variable where None."""
        self.group[name][... if index is None else index] = fields  # type: ignore[index]

    def attributes(self, values: Mapping[str, Any]) -> None:
        """Attributes of the whole store."""
        self.group.attrs.update({key: _plain(value) for key, value in values.items()})

    def close(self) -> None:
        """Gather the metadata of all variables in one place, where xarray looks for them first."""
        zarr.consolidate_metadata(self.group.store)


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
