"""Polar stereographic coordinates and their CF attributes, for the two European composites."""

from __future__ import annotations

from typing import Any

import numpy as np


def spherical_stereographic(
    longitude: float, latitude: float, *, central_longitude: float, true_latitude: float, radius: float
) -> tuple[float, float]:
    """(x, y) in the units of `radius` of a point on a sphere, north polar aspect (Snyder 1987, eqs. 21-5, 21-6, 21-33).

    Angles in degrees. The pole is the origin and y grows away from the reader along the central meridian's far side.
    """
    turn = np.radians(longitude - central_longitude)
    scale = radius * (1.0 + np.sin(np.radians(true_latitude)))
    rho = scale * np.tan(np.pi / 4.0 - np.radians(latitude) / 2.0)
    return float(rho * np.sin(turn)), float(-rho * np.cos(turn))


def polar_stereographic_attributes(
    *, central_longitude: float, true_latitude: float, semi_major: float, semi_minor: float
) -> dict[str, Any]:
    """CF grid-mapping attributes of a north polar stereographic projection; semi-axes in metres."""
    return {
        "grid_mapping_name": "polar_stereographic",
        "latitude_of_projection_origin": 90.0,
        "straight_vertical_longitude_from_pole": central_longitude,
        "standard_parallel": true_latitude,
        "false_easting": 0.0,
        "false_northing": 0.0,
        "semi_major_axis": semi_major,
        "semi_minor_axis": semi_minor,
    }
