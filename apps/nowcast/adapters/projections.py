"""Map projections as pysteps writes them, PROJ.4 text, and as CF does, attributes of a grid mapping. It takes pyproj,
which pysteps brings along."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from data_tools.cli import UserError


def proj4_of(attributes: Mapping[str, Any]) -> str:
    """PROJ.4 text of a CF grid mapping; empty where it has no place on Earth.

    Raises:
        ValueError: a mapping that pyproj does not know.
        UserError: pyproj is not installed.
    """
    if attributes.get("grid_mapping_name", "unknown") == "unknown" and not attributes.get("crs_wkt"):
        return ""
    _require_pyproj()
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    known = {key: value.item() if hasattr(value, "item") else value for key, value in attributes.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that PROJ.4 text says less than well-known text
            return CRS.from_cf(known).to_proj4().replace(" +type=crs", "")
    except (CRSError, KeyError) as error:
        raise ValueError(f"expected a CF grid mapping that pyproj knows, got {known}: {error}") from error


def mapping_of(proj4: str) -> dict[str, Any]:
    """CF grid mapping attributes of PROJ.4 text, in metres or degrees; empty of an empty one.

    pyproj has none for spheres in some projections, SEVIR's among them: those are written by hand.

    Raises:
        ValueError: text that pyproj does not understand, or that CF has no mapping for.
        UserError: pyproj is not installed.
    """
    if not proj4.strip():
        return {}
    _require_pyproj()
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            crs = CRS.from_proj4(proj4)
            attributes, terms = crs.to_cf(), crs.to_dict()
    except CRSError as error:
        raise ValueError(f"expected PROJ.4 text in projection, got {proj4!r}: {error}") from error
    found = {key: value for key, value in attributes.items() if key != "crs_wkt"}
    if found.get("grid_mapping_name", "unknown") != "unknown":
        return found
    if terms.get("proj") != "laea":
        raise ValueError(f"expected a projection that CF has a grid mapping for, got {proj4!r}")
    ellipsoid = crs.ellipsoid
    assert ellipsoid is not None
    return {
        "grid_mapping_name": "lambert_azimuthal_equal_area",
        "latitude_of_projection_origin": float(terms.get("lat_0", 0.0)),
        "longitude_of_projection_origin": float(terms.get("lon_0", 0.0)),
        "false_easting": float(terms.get("x_0", 0.0)),
        "false_northing": float(terms.get("y_0", 0.0)),
        "semi_major_axis": ellipsoid.semi_major_metre,
        "semi_minor_axis": ellipsoid.semi_minor_metre,
    }


def _require_pyproj() -> None:
    if find_spec("pyproj") is None:
        raise UserError("expected pyproj for map projections, got none; pip install 'spanlift[geo]'")
