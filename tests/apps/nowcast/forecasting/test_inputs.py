from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from apps.nowcast.forecasting.inputs import open_source, read_scene
from apps.nowcast.forecasting.units import to_rate
from apps.nowcast.output.georeference import longitude_latitude
from apps.nowcast.output.layout import Layout
from data_tools.cli import UserError
from data_tools.fmi import rate_of_dbz

TIMES = np.datetime64("2020-02-29T23:40:00", "s") + np.arange(9) * np.timedelta64(300, "s")


def rain_file(path: Path, units: str = "mm h-1", **changes: object) -> xr.Dataset:
    """A CF dataset of rates (9, 4, 5), written to `path`."""
    rates = np.random.default_rng(0).gamma(1.0, 2.0, (9, 4, 5)).astype(np.float32)
    known = {"values": rates, "times": TIMES, "x": 500.0 + 1e3 * np.arange(5), "y": 9e3 - 1e3 * np.arange(4)} | changes
    attributes = {"units": units, "grid_mapping": "proj"}
    if "name" not in changes:
        attributes["standard_name"] = "rainfall_flux"
    dataset = xr.Dataset(
        {str(known.get("name", "rain")): (("t", "north", "east"), known["values"], attributes), "proj": ((), 0, {})},
        {
            "t": ("t", known["times"], {"standard_name": "time"}),
            "north": ("north", known["y"], {"standard_name": "projection_y_coordinate", "units": "m"}),
            "east": ("east", known["x"], {"standard_name": "projection_x_coordinate", "units": "m"}),
        },
        {"title": "made"},
    )
    dataset["proj"].attrs.update(grid_mapping_name="transverse_mercator", longitude_of_central_meridian=25.0)
    if path.suffix == ".zarr":
        dataset.to_zarr(path, zarr_format=2)
    else:
        dataset.to_netcdf(path)
    return dataset


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_rain_is_found_by_its_standard_name(tmp_path: Path, suffix: str) -> None:
    written = rain_file(tmp_path / f"in{suffix}")
    scene = read_scene(open_source(tmp_path / f"in{suffix}"), 7, (4.0, 5.0))
    np.testing.assert_array_equal(scene.frames, written["rain"].to_numpy()[2:])
    np.testing.assert_array_equal(scene.times, TIMES[2:])
    np.testing.assert_array_equal(scene.place.x, written["east"])
    assert scene.place.north_up
    assert scene.place.crs["grid_mapping_name"] == "transverse_mercator"
    assert scene.title == "made; licence not told"


@pytest.mark.parametrize(
    ("units", "factor"),
    [("mm/h", 1.0), ("kg m-2 h-1", 1.0), ("kg m-2 s-1", 3600.0), ("mm s-1", 3600.0), ("m s-1", 3.6e6)],
)
def test_units_become_millimetres_an_hour(units: str, factor: float) -> None:
    rate, notes = to_rate(np.array([[0.0, 1.0 / factor], [np.nan, 30.0 / factor]]), units, "rain")
    np.testing.assert_allclose(rate, [[0.0, 1.0], [np.nan, 30.0]], rtol=1e-6)
    assert not notes


def test_reflectivity_becomes_rain() -> None:
    dbz = np.array([-np.inf, -32.0, 7.0, 23.0, 45.0, np.nan])
    rate, _ = to_rate(dbz, "dBZ", "echo")
    np.testing.assert_allclose(rate[2:5], rate_of_dbz(dbz[2:5]), rtol=1e-6)
    np.testing.assert_array_equal(rate[:3], 0.0)
    assert np.isnan(rate[5])


@pytest.mark.parametrize("units", ["", "K", "mm", "inch/h", "1"])
def test_unknown_units_are_refused(units: str) -> None:
    with pytest.raises(UserError, match="expected rain in kg m-2 h-1, mm h-1"):
        to_rate(np.ones(3), units, "rain")


def test_numbers_that_cannot_be_rain_are_refused_or_missing() -> None:
    with pytest.raises(UserError, match=r"expected rain rates up to 1000 mm/h in rain, got more in 100\.0%"):
        to_rate(np.full(4, 2.0), "kg m-2 s-1", "rain")
    values = np.full(1000, 2.0)
    values[:2], values[2], values[3] = [1e30, np.inf], -1.0, -np.inf
    rate, notes = to_rate(values, "mm/h", "rain")
    assert np.isnan(rate[:4]).all()
    np.testing.assert_array_equal(rate[4:], 2.0)
    assert notes == ("2 pixels over 1000 mm/h taken as missing", "2 pixels of negative rates taken as missing")


def test_frames_out_of_order_are_sorted(tmp_path: Path) -> None:
    order = np.array([3, 0, 1, 2, 8, 4, 7, 5, 6])
    written = rain_file(tmp_path / "in.nc", times=TIMES[order])
    scene = read_scene(open_source(tmp_path / "in.nc"), 3)
    np.testing.assert_array_equal(scene.times, TIMES[-3:])
    np.testing.assert_array_equal(scene.frames, written["rain"].to_numpy()[[8, 6, 4]])
    assert "sorted" in scene.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": np.repeat(TIMES[:1], 9)}, "expected one frame a time"),
        ({"times": np.arange(9)}, "expected times in"),
        ({"x": np.array([0.0, 1.0, 2.0, 4.0, 9.0])}, "expected evenly spaced east"),
        ({"y": np.full(4, np.nan)}, "expected evenly spaced north"),
        ({"name": "temperature"}, "expected a variable with standard_name rainfall_flux"),
        ({"values": np.full((9, 4, 5), np.nan)}, "got only missing pixels"),
        ({"values": np.full((9, 4, 5), 1e20)}, "expected rain rates up to 1000"),
    ],
)
def test_odd_files_get_one_line(tmp_path: Path, changes: dict, message: str) -> None:
    rain_file(tmp_path / "in.nc", **changes)
    with pytest.raises(UserError, match=message) as caught:
        read_scene(open_source(tmp_path / "in.nc"), 7)
    assert "\n" not in str(caught.value)


POLAR = {
    "grid_mapping_name": "polar_stereographic", "straight_vertical_longitude_from_pole": 25.0,
    "latitude_of_projection_origin": 90.0, "standard_parallel": 60.0, "false_easting": 0.5, "false_northing": 0.0,
    "earth_radius": 6371288.0,
}  # fmt: skip


def placed_file(path: Path, crs: dict, x: tuple[np.ndarray, dict], y: tuple[np.ndarray, dict]) -> Path:
    """A CF file of dry frames (9, 4, 5) whose coordinates are (values, attributes)."""
    rain_file(path.with_name("draft.nc"), x=x[0], y=y[0])
    with xr.open_dataset(path.with_name("draft.nc")) as dataset:
        dataset["east"].attrs, dataset["north"].attrs, dataset["proj"].attrs = x[1], y[1], crs
        dataset.to_netcdf(path)
    return path


def test_kilometres_become_metres_in_the_grid_mapping_too(tmp_path: Path) -> None:
    pyproj = pytest.importorskip("pyproj")
    wkt = pyproj.CRS.from_proj4("+proj=stere +lat_0=90 +lat_ts=60 +lon_0=25 +R=6371288 +x_0=500 +units=km").to_wkt()
    east, north = 100.0 + np.arange(5), (-3.2e6 - 1e3 * np.arange(4), {"units": "m", "axis": "Y"})
    told = {**POLAR, "crs_wkt": wkt, "spatial_ref": wkt, "GeoTransform": "99.5 1 0 -3199.5 0 -1"}
    kilometres = placed_file(tmp_path / "km.nc", told, (east, {"units": "km", "axis": "X"}), north)
    plain = {**POLAR, "false_easting": 500.0}
    metres = placed_file(tmp_path / "m.nc", plain, (1e3 * east, {"units": "m", "axis": "X"}), north)
    one, two = (read_scene(open_source(path), 7).place for path in (kilometres, metres))
    np.testing.assert_allclose(one.x, two.x)
    np.testing.assert_allclose(one.y, two.y)
    assert one.crs == two.crs
    degrees = longitude_latitude(one)
    assert degrees is not None
    assert 59.0 < degrees[1].min() < degrees[1].max() < 61.0


def test_a_rotated_pole_is_no_longitude(tmp_path: Path) -> None:
    pytest.importorskip("pyproj")
    pole = {"grid_north_pole_latitude": 39.25, "grid_north_pole_longitude": -162.0}
    x, y = ({"units": "degrees", "standard_name": f"grid_{name}"} for name in ("longitude", "latitude"))
    crs = {"grid_mapping_name": "rotated_latitude_longitude", **pole}
    scene = read_scene(open_source(placed_file(tmp_path / "in.nc", crs, (np.arange(5.0), x), (np.arange(4.0), y))), 7)
    variables = Layout(scene.quantity, scene.place, scene.init_time, scene.valid_times(1), 1).variables
    assert variables["x"].attributes["standard_name"] == "grid_longitude"
    assert variables["y"].attributes["standard_name"] == "grid_latitude"
    corner = [variables[name].data[0, 0] for name in ("longitude", "latitude")]  # type: ignore[index]
    np.testing.assert_allclose(corner, [18.0, 50.75], atol=1e-4)  # 0, 0 lies across from the pole, by 90 degrees


@pytest.mark.parametrize("units", [("", ""), ("m", ""), ("degrees_east", "m"), ("furlong", "m")])
def test_coordinates_without_a_unit_of_their_own_are_refused(tmp_path: Path, units: tuple[str, str]) -> None:
    x, y = ({"units": unit} if unit else {} for unit in units)
    x, y = x | {"axis": "X"}, y | {"axis": "Y"}
    path = placed_file(tmp_path / "in.nc", {}, (np.arange(5.0), x), (np.arange(4.0), y))
    with pytest.raises(UserError, match="expected x and y in m, km or degrees"):
        open_source(path)


@pytest.mark.parametrize(
    ("limits", "packing"),
    [
        ({"valid_range": np.array([0.0, 200.0], np.float32)}, {}),
        ({"valid_max": np.int16(2000), "valid_min": np.int16(0)}, {"dtype": "int16", "scale_factor": 0.1}),
        ({"valid_range": np.array([-2000, 10], np.int16)}, {"dtype": "int16", "scale_factor": -0.1}),
        ({"valid_max": 200.0}, {"dtype": "int16", "scale_factor": 0.1}),
    ],
)
def test_codes_outside_the_valid_range_are_missing(tmp_path: Path, limits: dict, packing: dict) -> None:
    values = np.full((9, 4, 5), 200.0, np.float32)
    values[:, 1, 2] = 255.0
    rain_file(tmp_path / "draft.nc", values=values)
    with xr.open_dataset(tmp_path / "draft.nc") as dataset:
        dataset["rain"].attrs |= limits
        dataset.to_netcdf(tmp_path / "in.nc", encoding={"rain": {"_FillValue": -9999, **packing}})
    scene = read_scene(open_source(tmp_path / "in.nc"), 7)
    np.testing.assert_array_equal(np.isnan(scene.frames), values[:7] == 255.0)
    np.testing.assert_allclose(scene.frames[0, 0, 0], 200.0, rtol=1e-6)


def test_little_rain_in_wrong_units_is_refused_not_removed() -> None:
    values = np.zeros((60, 60))
    values[20:24, 20:23] = 5.0
    with pytest.raises(UserError, match="correct its units"):
        to_rate(values, "m s-1", "rain")  # mm/h in truth
    values[20:24, 20:23], values[5, 5] = 0.0, 5.0
    rate, _ = to_rate(values, "m s-1", "rain")  # a bad pixel on a dry day
    assert np.isnan(rate[5, 5])


def test_rain_too_faint_to_be_rain_is_told(tmp_path: Path) -> None:
    rates = np.full((9, 4, 5), 3.0 / 3600.0, np.float32)  # in mm/s, and said to be in mm/h
    rain_file(tmp_path / "in.nc", values=rates)
    assert any("the units are wrong" in note for note in read_scene(open_source(tmp_path / "in.nc"), 7).notes)
    rain_file(tmp_path / "dry.nc", values=0.0 * rates)
    assert not read_scene(open_source(tmp_path / "dry.nc"), 7).notes


@pytest.mark.parametrize("content", [b"", b"CDF\x01", b"\x89HDF\r\n\x1a\n" + bytes(40), b"no"])
def test_damaged_files_get_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.nc").write_bytes(content)
    with pytest.raises(UserError, match="expected a CF netCDF file"):
        open_source(tmp_path / "in.nc")


def test_an_archive_with_a_gap_and_a_damaged_frame(tmp_path: Path, write_fmi: Callable) -> None:
    codes = np.full((9, 6, 7), 100, np.uint8)
    codes[:, :, 0] = 255
    codes[8, 2, 3] = 255
    paths = write_fmi(tmp_path / "a/b", TIMES, codes)
    (tmp_path / "README").write_text("other files do not matter")
    (tmp_path / "a/b/stations.csv").write_text("id,name")
    paths[3].unlink()
    paths[5].write_bytes(paths[5].read_bytes()[:40])
    assert open_source(tmp_path / "a/b").name == "fmi"
    scene = read_scene(open_source(tmp_path), 7, (4.0, 5.0))
    assert [wanted for wanted, _ in scene.substituted] == [TIMES[3], TIMES[5]]
    assert any(f"frame {TIMES[5]} cannot be read: expected an FMI image" in note for note in scene.notes)
    assert "2 other files were passed over" in scene.notes
    np.testing.assert_array_equal(scene.unobserved, codes[0] == 255)
    assert scene.missing_fraction == pytest.approx(1 / (7 * 6 * 6))
    filled = scene.filled()
    assert filled[-1, 2, 3] == scene.frames[-2, 2, 3]
    assert (filled[:, :, 0] == 0.0).all()


def test_of_two_files_of_one_time_the_one_changed_last_counts(tmp_path: Path, write_fmi: Callable) -> None:
    codes = np.full((9, 6, 7), 100, np.uint8)
    first = write_fmi(tmp_path / "b", TIMES, codes)
    again = write_fmi(tmp_path / "a", TIMES[8:], codes[8:] + 20)
    for path, moment in ((first[8], 2_000), (again[0], 1_000)):
        os.utime(path, (moment, moment))
    before = read_scene(open_source(tmp_path), 7)
    os.utime(again[0], (3_000, 3_000))
    after = read_scene(open_source(tmp_path), 7)
    assert len(open_source(tmp_path).times) == 9
    assert after.frames[-1, 0, 0] > before.frames[-1, 0, 0]
    np.testing.assert_array_equal(after.frames[:-1], before.frames[:-1])
    for scene, kept in ((before, first[8]), (after, again[0])):
        (note,) = [note for note in scene.notes if "several files" in note]
        assert note.startswith("several files of one time, 1 in all")
        assert f"counts: {kept}, not" in note
        assert note.endswith(f"at {TIMES[8]}")


def test_archives_are_told_apart(tmp_path: Path, write_fmi: Callable) -> None:
    with pytest.raises(UserError, match="expected radar frames of one of knmi, fmi, mrms"):
        open_source(tmp_path)
    write_fmi(tmp_path, TIMES[:2], np.zeros((2, 3, 3)))
    (tmp_path / "RAD_NL25_RAP_5min_202002292340.h5").write_bytes(b"")
    with pytest.raises(UserError, match="got frames of knmi, fmi"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="which is not there"):
        open_source(tmp_path / "nothing")


def test_an_event_is_chosen_by_id_time_or_age(tiny_store: Path) -> None:
    assert open_source(tiny_store).notes == ("event test-2",)
    assert open_source(tiny_store, "val-1").notes == ("event val-1",)
    at = np.datetime64("2020-01-02T00:30:00")
    source = open_source(tiny_store, None, at)
    assert source.notes == ("event train-1",)
    scene = read_scene(source, 7, (), at)
    assert scene.init_time == at
    assert scene.frames.shape == (7, 32, 32)
    with pytest.raises(UserError, match="expected --event in"):
        open_source(tiny_store, "nobody")
    with pytest.raises(UserError, match="expected an event of"):
        open_source(tiny_store, None, np.datetime64("1999-01-01T00:00:00"))


def test_real_archives(shared: Path) -> None:
    for name, shape, step in (("fmi/20170509", (1226, 760), 300), ("knmi", (765, 700), 300)):
        folder = shared / "radar" / name
        if not folder.is_dir():
            pytest.skip(f"no {folder}")
        scene = read_scene(open_source(folder), 7, (4.0, 5.0))
        assert scene.frames.shape == (7, *shape)
        assert scene.step_seconds == step
        assert not scene.substituted
