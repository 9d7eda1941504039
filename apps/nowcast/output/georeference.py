"""Grid mappings of a place: CF attributes, well-known text, longitudes and latitudes, and GeoTIFF's transform.

Well-known text and the longitudes of projected grids need the package pyproj; without it they are left out, and the CF
attributes alone say where the pixels are.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from apps.nowcast.forecasting.scene import Place

_ROWS = 256  # whose coordinates are turned into degrees at once


def grid_mapping(place: Place) -> dict[str, Any]:
    """CF grid-mapping attributes with well-known text where it can be made; empty where nothing is known of the
    place."""
    mapping = {key: value for key, value in place.crs.items() if _writable(value)}
    if not mapping.get("grid_mapping_name"):
        return {}
    text = well_known_text(place)
    if text is not None:
        mapping |= {"crs_wkt": text, "spatial_ref": text}
    return mapping


def _writable(value: Any) -> bool:
    if isinstance(value, str):
        return True
    finite = np.asarray(value)
    return finite.dtype.kind in "if" and finite.ndim <= 1 and bool(np.isfinite(finite).all())


def well_known_text(place: Place) -> str | None:
    """WKT 2 of the grid mapping; None where pyproj is absent or does not know it."""
    crs = _crs(place)
    return None if crs is None else crs.to_wkt()


def _crs(place: Place) -> Any:
    if find_spec("pyproj") is None or not place.crs.get("grid_mapping_name"):
        return None
    plain = {key: np.asarray(value).tolist() for key, value in place.crs.items() if _writable(value)}
    return _parsed(tuple((key, tuple(v) if isinstance(v, list) else v) for key, v in sorted(plain.items())))


@lru_cache(maxsize=8)
def _parsed(attributes: tuple[tuple[str, Any], ...]) -> Any:
    """pyproj's reading of CF attributes, which takes it long; None where it knows no such projection."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        with warnings.catch_warnings():  # attributes of others may hold nonsense, about which it warns in many ways
            warnings.simplefilter("ignore")
            return CRS.from_cf({key: list(v) if isinstance(v, tuple) else v for key, v in attributes})
    except (CRSError, KeyError, ValueError, TypeError):
        return None


def longitude_latitude(place: Place) -> tuple[np.ndarray, np.ndarray] | None:
    """Degrees (H, W) float64 of the pixel centres of a projected grid; None where they are its own coordinates, or
    cannot be told."""
    crs = None if place.is_geographic else _crs(place)
    if crs is None:
        return None
    from pyproj import Transformer

    # to the projection's own ellipsoid: no shift of datum is meant. A rotated pole's own geodetic system is itself
    unrotated = crs.source_crs if place.is_rotated else crs.geodetic_crs
    transformer = Transformer.from_crs(crs, unrotated, always_xy=True)
    longitude, latitude = np.empty(place.shape), np.empty(place.shape)
    for first in range(0, place.shape[0], _ROWS):
        rows = slice(first, first + _ROWS)
        x, y = np.meshgrid(place.x, place.y[rows])
        longitude[rows], latitude[rows] = transformer.transform(x, y)
    if not (np.isfinite(longitude).all() and np.isfinite(latitude).all()):
        return None  # a grid that reaches beyond what its projection shows
    return longitude, latitude


def affine(place: Place) -> tuple[float, float, float, float, float, float]:
    """(a, b, c, d, e, f) of x = a column + b row + c, y = d column + e row + f at outer corners, row 0 the
    northernmost whatever way the place counts its rows. A single row or column is as wide as the other way's pixels,
    one unit where both are single."""
    across = _step(place.x)
    down = _step(place.y)
    width, height = (across or abs(down or 1.0)), (-abs(down) if down else -abs(across or 1.0))
    north = float(np.max(place.y))
    return width, 0.0, float(place.x[0]) - width / 2.0, 0.0, height, north - height / 2.0


def _step(centres: np.ndarray) -> float | None:
    if len(centres) < 2:
        return None
    step = float(centres[-1] - centres[0]) / (len(centres) - 1)
    return step if math.isfinite(step) else None
