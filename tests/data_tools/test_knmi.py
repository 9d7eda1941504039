from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.archive import MISSING
from data_tools.cli import UserError
from data_tools.knmi import Knmi, parse_formula

TIMES = np.array(["2012-12-31T23:55:00", "2013-01-01T00:00:00"], dtype="datetime64[s]")


def test_accumulations_become_rates(tmp_path: Path, knmi_archive: Callable[..., list[Path]]) -> None:
    codes = np.random.default_rng(0).integers(0, 3000, size=(2, 11, 7))
    codes[1, 2, 3] = 65535
    codes[1, 4, 5] = 6000  # 720 mm/h, more than the store's code holds
    paths = knmi_archive(tmp_path, TIMES, codes)
    first, second = Knmi().read(paths)
    assert first.dtype == np.uint16
    np.testing.assert_array_equal(first, 12 * codes[0])  # 0.01 mm in 5 min is 0.12 mm/h, 12 steps of 0.01
    assert second[2, 3] == MISSING
    assert second[4, 5] == MISSING - 1
    assert second[0, 0] == 12 * codes[1, 0, 0]


def test_the_grid_is_that_of_the_header(tmp_path: Path, knmi_archive: Callable[..., list[Path]]) -> None:
    (path,) = knmi_archive(tmp_path, TIMES[:1], np.zeros((1, 11, 7)))
    grid = Knmi().grid(path)
    assert (grid.shape, grid.x0, grid.y0) == ((11, 7), 3000.0, -3_650_000.0)
    assert (grid.pixel_size, grid.units) == ((1000.0, -1000.0), "m")
    assert grid.crs["grid_mapping_name"] == "polar_stereographic"
    assert (grid.crs["semi_major_axis"], grid.crs["semi_minor_axis"]) == (6378137.0, 6356752.0)


@given(st.floats(1e-6, 1e3), st.floats(-1e3, 1e3))
def test_calibrations_are_understood(gain: float, offset: float) -> None:
    text = f"GEO={gain!r}*PV{'+' if offset >= 0 else '-'}{abs(offset)!r}"
    assert parse_formula(text) == (gain, offset)
    assert parse_formula(f" GEO = {gain!r} * PV ") == (gain, 0.0)


@given(st.text(max_size=30))
def test_other_calibrations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a calibration"):
        parse_formula(f"{text}?")


def break_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def make_text(path: Path) -> None:
    path.write_text("<html>404</html>")


def lose_calibration(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["image1/calibration"]


def change_formula(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["image1/calibration"].attrs["calibration_formulas"] = np.bytes_("GEO=10^(PV/20)")


def change_time(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["overview"].attrs["product_datetime_end"] = np.bytes_(["01-JAN-2013;00:05:00.000"])


def stop_time(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["overview"].attrs["product_datetime_start"] = np.bytes_(["01-JAN-2013;00:00:00.000"])


def damage_pixels(path: Path) -> None:
    with h5py.File(path, "a") as file:
        chunk = file["image1/image_data"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + 8] = b"\xff" * 8
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_off, "truncated or foreign"),
        (make_text, "truncated or foreign"),
        (lose_calibration, "truncated or foreign"),
        (change_formula, "expected a calibration"),
        (change_time, "2013-01-01T00:05:00 in the header"),
        (stop_time, "expected an accumulation over some minutes"),
        (damage_pixels, "truncated or foreign"),
    ],
)
def test_damaged_files_are_told_in_words(
    tmp_path: Path, knmi_archive: Callable[..., list[Path]], damage: Callable[[Path], None], words: str
) -> None:
    paths = knmi_archive(tmp_path, TIMES, np.ones((2, 30, 20)))
    damage(paths[1])
    frames = Knmi().read(paths)
    assert next(frames).shape == (30, 20)
    with pytest.raises(UserError, match=words) as caught:
        next(frames)
    assert paths[1].name in str(caught.value)
    assert "\n" not in str(caught.value)


def move_rows(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["geographic"].attrs["geo_row_offset"] = np.float32([3649])


def turn_meridian(path: Path) -> None:
    with h5py.File(path, "a") as file:
        attributes = file["geographic/map_projection"].attrs
        attributes["projection_proj4_params"] = attributes["projection_proj4_params"].replace(
            b"lon_0=0.0", b"lon_0=5.0"
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (move_rows, "y0 -3650000.0 like the first, got -3649000.0"),
        (turn_meridian, "straight_vertical_longitude_from_pole 0.0 like the first, got 5.0"),
    ],
)
def test_a_file_on_another_grid_is_refused(
    tmp_path: Path, knmi_archive: Callable[..., list[Path]], change: Callable[[Path], None], words: str
) -> None:
    paths = knmi_archive(tmp_path, TIMES, np.ones((2, 5, 4)))
    change(paths[1])
    frames = Knmi().read(paths)
    assert next(frames).shape == (5, 4)
    with pytest.raises(UserError, match=f"{words} in {paths[1].name}"):
        next(frames)


def test_another_product_is_refused(tmp_path: Path, knmi_archive: Callable[..., list[Path]]) -> None:
    paths = knmi_archive(tmp_path, TIMES, np.ones((2, 5, 4)), parameter="HAIL")
    with pytest.raises(UserError, match=r"got ACCUMULATED_HAIL_\[MM\]"):
        next(Knmi().read(paths))


def test_the_real_archive(shared: Path) -> None:
    pyproj = pytest.importorskip("pyproj")
    path = shared / "radar" / "knmi" / "RAD_NL25_RAP_5min_201008260730.h5"
    with h5py.File(path) as file:
        raw = file["image1/image_data"][...].astype(np.int64)
        corners = file["geographic"].attrs["geo_product_corners"].reshape(4, 2)  # from the lower left, clockwise
    (frame,) = Knmi().read([path])
    np.testing.assert_array_equal(frame, np.where(raw == 65535, MISSING, 12 * raw))
    grid = Knmi().grid(path)
    projection = pyproj.Proj("+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378137 +b=6356752")
    bottom, right = grid.y0 + 765 * grid.pixel_size[1], grid.x0 + 700 * grid.pixel_size[0]
    points = [(grid.x0, bottom), (grid.x0, grid.y0), (right, grid.y0), (right, bottom)]
    for (longitude, latitude), (x, y) in zip(corners, points, strict=True):
        np.testing.assert_allclose(projection(x, y, inverse=True), (longitude, latitude), atol=2e-3)
