"""Scenes and archives that are quickly forecast."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from apps.nowcast.forecasting.scene import Place, Scene
from apps.nowcast.methods import Method, parse_methods
from apps.nowcast.nowcaster import Nowcaster
from data_tools.projection import polar_stereographic_attributes
from data_tools.quantities import RAINFALL_RATE

CRS = polar_stereographic_attributes(
    central_longitude=25.0, true_latitude=60.0, semi_major=6371288.0, semi_minor=6371288.0
)
START = np.datetime64("2020-02-29T23:30:00", "s")


def blobs(height: int, width: int, frames: int = 7, rows: float = 1.0, columns: float = 2.0) -> np.ndarray:
    """(frames, H, W) float32: cells of rain that move by (rows, columns) from frame to frame."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    made = np.zeros((frames, height, width))
    for index, (row, column) in enumerate([(0.3, 0.2), (0.6, 0.5), (0.4, 0.8)]):
        for k in range(frames):
            there = (row * height + rows * (k - frames + 1), column * width + columns * (k - frames + 1))
            made[k] += (12.0 + 5 * index) * np.exp(-((y - there[0]) ** 2 + (x - there[1]) ** 2) / 40.0)
    return np.where(made > 0.1, made, 0.0).astype(np.float32)


@pytest.fixture(scope="session")
def rain() -> Callable[..., np.ndarray]:
    return blobs


@pytest.fixture(scope="session")
def scene_of() -> Callable[..., Scene]:
    """`scene_of(frames)`: a scene of frames (7, H, W), 1 km polar stereographic pixels, row 0 the northernmost."""

    def build(frames: np.ndarray, north_up: bool = True, **changes: object) -> Scene:
        count, height, width = frames.shape
        y = 4e6 - 1000.0 * np.arange(height)
        place = Place(1e5 + 1000.0 * np.arange(width), y if north_up else y[::-1], "m", CRS)
        times = START + np.arange(count) * np.timedelta64(300, "s")
        known = {"quantity": RAINFALL_RATE, "place": place, "name": "made", "title": "made; CC0"} | changes
        return Scene(frames, times, 300, **known)  # type: ignore[arg-type]

    return build


@pytest.fixture(scope="session")
def method(nowcaster: Nowcaster) -> Method:
    """A solver that is quick."""
    return parse_methods("ddim-2", nowcaster)[0]


@pytest.fixture(scope="session")
def write_fmi() -> Callable[..., list[Path]]:
    """`write_fmi(folder, times, codes)` writes frames (N, H, W) as FMI does (dBZ = (PV - 64) / 2, 255 missing)."""

    def write(folder: Path, times: np.ndarray, codes: np.ndarray) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for time, pixels in zip(times, codes, strict=True):
            stamp = f"{time.item():%Y%m%d%H%M}"
            header = (
                f"P5\n# obstime {stamp}\n# param CorrectedReflectivity\n# metersperpixel_x 1000\n"
                "# metersperpixel_y 1000\n# type stereographic\n# centrallongitude 25\n# centrallatitude 90\n"
                f"# truelatitude 60\n# bottomleft 18.6 57.93\n{pixels.shape[1]} {pixels.shape[0]}\n255\n"
            )
            path = folder / f"{stamp}_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz"
            path.write_bytes(gzip.compress(header.encode() + pixels.astype(np.uint8).tobytes()))
            paths.append(path)
        return paths

    return write
