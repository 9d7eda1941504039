"""Our datasets as pysteps has them, and back; our forecast among its methods."""

from __future__ import annotations

from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from apps.nowcast.adapters import projections
from apps.nowcast.adapters.nowcasting import PystepsNowcast
from apps.nowcast.adapters.projections import mapping_of, proj4_of
from apps.nowcast.adapters.pysteps import from_pysteps, register, to_pysteps
from apps.nowcast.adapters.units import from_rate, to_rate
from apps.nowcast.forecasting.scene import Place
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.output.georeference import longitude_latitude
from apps.nowcast.output.layout import Layout
from apps.nowcast.pysteps_calls import quietly
from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE

pytestmark = pytest.mark.skipif(find_spec("pyproj") is None, reason="pyproj is not installed")
needs_pysteps = pytest.mark.skipif(
    find_spec("pysteps") is None or find_spec("cv2") is None, reason="pysteps or opencv is not installed"
)
STEREOGRAPHIC = {
    "grid_mapping_name": "polar_stereographic",
    "latitude_of_projection_origin": 90.0,
    "straight_vertical_longitude_from_pole": 25.0,
    "standard_parallel": 60.0,
    "false_easting": 0.0,
    "false_northing": 0.0,
    "semi_major_axis": 6371288.0,
    "semi_minor_axis": 6371288.0,
}
SEVIR = {
    "grid_mapping_name": "lambert_azimuthal_equal_area",
    "latitude_of_projection_origin": 38.0,
    "longitude_of_projection_origin": -98.0,
    "earth_radius": 6370997.0,
}
MEMBERS, LEADS, ROWS, COLUMNS = 2, 3, 5, 7
START = np.datetime64("2021-07-01T12:00:00")


def forecast_file(mapping: dict, *, upper: bool = True) -> xr.Dataset:
    """A forecast as our files have it."""
    y = -2.3e6 - 1000.0 * np.arange(ROWS)
    place = Place(3.5e4 + 1000.0 * np.arange(COLUMNS), y if upper else y[::-1], "m", mapping)
    valid = START + np.arange(1, LEADS + 1) * np.timedelta64(300, "s")
    layout = Layout(RAINFALL_RATE, place, START, valid, MEMBERS)
    rain = np.random.default_rng(0).gamma(0.5, 4.0, (MEMBERS, LEADS, ROWS, COLUMNS)).astype(np.float32)
    rain[rain < 0.1] = 0.0
    rain[:, :, 0, 0] = np.nan
    variables = {}
    for name, each in layout.variables.items():
        variables[name] = xr.Variable(each.dimensions, rain if each.data is None else each.data, dict(each.attributes))
    return xr.decode_cf(xr.Dataset(variables, attrs={"institution": "the house"}))


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("mapping", [STEREOGRAPHIC, SEVIR, {}], ids=["stereographic", "sevir", "nowhere"])
def test_a_forecast_goes_to_pysteps_and_comes_back(mapping: dict, upper: bool) -> None:
    dataset = forecast_file(mapping, upper=upper)
    precip, metadata = to_pysteps(dataset)
    assert precip.shape == (MEMBERS, LEADS, ROWS, COLUMNS)
    assert (metadata["unit"], metadata["transform"], metadata["accutime"]) == ("mm/h", None, 5.0)
    assert metadata["yorigin"] == ("upper" if upper else "lower")
    assert (metadata["x1"], metadata["x2"]) == (3.45e4, 3.45e4 + 1000.0 * COLUMNS)
    assert (metadata["y1"], metadata["y2"]) == (-2.2995e6 - 1000.0 * ROWS, -2.2995e6)
    assert metadata["timestamps"][0] == datetime(2021, 7, 1, 12, 5)
    back = from_pysteps(precip, metadata)
    for name in ("rainfall_rate", "x", "y", "time", "lead_time", "forecast_reference_time", "realization"):
        np.testing.assert_array_equal(back[name].to_numpy(), dataset[name].to_numpy(), err_msg=name)
    assert back["rainfall_rate"].attrs["units"] == "kg m-2 h-1"
    assert back.attrs["institution"] == "the house"
    if mapping:  # the same places on Earth, however the mapping is written
        for name in ("longitude", "latitude"):
            np.testing.assert_allclose(back[name], dataset[name], atol=1e-5)


@pytest.mark.parametrize(("unit", "transform"), [("mm/h", "dB"), ("mm", None), ("mm", "dB"), ("dBZ", None)])
def test_units_and_transforms_there_and_back(unit, transform) -> None:
    dataset = forecast_file(STEREOGRAPHIC)
    precip, metadata = to_pysteps(dataset, unit=unit, transform=transform)
    rain = dataset["rainfall_rate"].to_numpy()
    np.testing.assert_allclose(to_rate(precip, metadata), rain, rtol=1e-6)
    assert np.nanmin(precip) == pytest.approx(metadata["zerovalue"])
    where = np.unravel_index(np.nanargmax(rain), rain.shape)
    expected = {
        ("mm/h", "dB"): 10 * np.log10(rain[where]),
        ("mm", None): rain[where] / 12,
        ("mm", "dB"): 10 * np.log10(rain[where] / 12),
        ("dBZ", None): 10 * np.log10(200 * rain[where] ** 1.6),
    }[(unit, transform)]
    assert precip[where] == pytest.approx(expected, rel=1e-6)


@needs_pysteps
def test_transforms_are_those_of_pysteps() -> None:
    with quietly():
        from pysteps.utils import conversion, transformation

        precip, metadata = to_pysteps(forecast_file(STEREOGRAPHIC))
        decibel, told = transformation.dB_transform(precip, metadata)  # type: ignore[misc]
        depth, _ = conversion.to_raindepth(precip, metadata)
    ours, ours_told = to_pysteps(forecast_file(STEREOGRAPHIC), transform="dB")
    np.testing.assert_allclose(ours, decibel, atol=1e-9)
    assert {name: ours_told[name] for name in ("threshold", "zerovalue")} == pytest.approx(
        {name: told[name] for name in ("threshold", "zerovalue")}
    )
    np.testing.assert_allclose(to_pysteps(forecast_file(STEREOGRAPHIC), unit="mm")[0], depth, rtol=1e-12)
    np.testing.assert_allclose(to_rate(decibel, told), forecast_file(STEREOGRAPHIC)["rainfall_rate"], rtol=1e-6)


def test_an_event_of_a_store_lies_where_it_was_cut(tiny_store: Path) -> None:
    store = xr.open_zarr(tiny_store, consolidated=False, chunks=None)
    precip, metadata = to_pysteps(store.isel(event=1))
    assert precip.shape == (13, 32, 32)
    assert np.isnan(precip[:, 0, 0]).all()
    assert metadata["cartesian_unit"] in {"m", "degrees"}
    assert len(metadata["timestamps"]) == 13
    assert metadata["x1"] == pytest.approx(float(store["x_origin"][1]))
    with pytest.raises(ValueError, match="choose an event by isel"):
        to_pysteps(store)


@pytest.mark.parametrize("mapping", [STEREOGRAPHIC, SEVIR], ids=["stereographic", "sevir"])
def test_a_projection_is_the_same_place_after_proj4(mapping: dict) -> None:
    x, y = 1e5 + 1000.0 * np.arange(4), 2e5 + 1000.0 * np.arange(3)
    there = longitude_latitude(Place(x, y, "m", mapping))
    back = longitude_latitude(Place(x, y, "m", mapping_of(proj4_of(mapping))))
    assert there is not None
    assert back is not None
    np.testing.assert_allclose(there, back, atol=1e-9)


def test_kilometres_become_metres() -> None:
    precip, metadata = to_pysteps(forecast_file(STEREOGRAPHIC))
    scaled = {name: metadata[name] / 1000.0 for name in ("x1", "x2", "y1", "y2")}
    there = metadata | scaled | {"cartesian_unit": "km", "projection": metadata["projection"] + " +units=km"}
    np.testing.assert_allclose(from_pysteps(precip, there)["x"], from_pysteps(precip, metadata)["x"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "kg"}, "expected unit mm/h"),
        ({"transform": "Box-Cox"}, "transform None or dB"),
        ({"yorigin": "left"}, "yorigin upper or lower"),
        ({"projection": "+proj=nonsense"}, "PROJ.4"),
        ({"timestamps": None}, "timestamps in the metadata, or start"),
        ({"unit": "mm", "accutime": None}, "accutime"),
    ],
)
def test_metadata_that_tell_too_little_are_refused(change: dict, message: str) -> None:
    precip, metadata = to_pysteps(forecast_file(STEREOGRAPHIC))
    with pytest.raises(ValueError, match=message):
        from_pysteps(precip, metadata | change)


@pytest.mark.parametrize("leads", [[0], [1], [1, 2]])
def test_some_of_the_lead_times_come_back_as_they_were(leads: list[int]) -> None:
    dataset = forecast_file({}).isel(time=leads)
    precip, metadata = to_pysteps(dataset, unit="mm")
    assert metadata["accutime"] == (5.0 * (leads[0] + 1) if len(leads) == 1 else 5.0)
    back = from_pysteps(precip, metadata)
    for name in ("lead_time", "forecast_reference_time", "time"):
        np.testing.assert_array_equal(back[name].to_numpy(), dataset[name].to_numpy(), err_msg=name)
    np.testing.assert_allclose(back["rainfall_rate"], dataset["rainfall_rate"], rtol=1e-6)


def test_the_time_of_a_depth_is_known_or_asked_for(tiny_store: Path) -> None:
    frame = xr.open_zarr(tiny_store, consolidated=False, chunks=None).isel(event=1, time=[3])
    step = float(frame.attrs["time_step_seconds"]) / 60
    assert to_pysteps(frame)[1]["accutime"] == step
    del frame.attrs["time_step_seconds"]
    assert to_pysteps(frame)[1]["accutime"] is None
    with pytest.raises(ValueError, match="accutime"):
        to_pysteps(frame, unit="mm")
    with pytest.raises(ValueError, match="evenly spaced, rising times"):
        to_pysteps(forecast_file({}).isel(time=[0, 2, 1]))


def test_numbers_of_numpy_are_numbers() -> None:
    """As they come out of the attributes of netCDF files."""
    np.testing.assert_allclose(to_rate(np.array([2.0]), {"unit": "mm", "accutime": np.int64(5)}), [24.0])


def test_frames_alone_need_a_start() -> None:
    precip, metadata = to_pysteps(forecast_file(STEREOGRAPHIC))
    rain = from_pysteps(precip[0, 0], metadata, start=datetime(2021, 7, 1), step_minutes=10)
    assert rain["rainfall_rate"].shape == (1, 1, ROWS, COLUMNS)
    assert rain["time"].to_numpy()[0] == np.datetime64("2021-07-01T00:10:00")


def test_without_pyproj_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = forecast_file(STEREOGRAPHIC)
    monkeypatch.setattr(projections, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pyproj.*spanlift\[geo\]"):
        to_pysteps(dataset)


def test_unknown_units_are_refused() -> None:
    with pytest.raises(ValueError, match="unit mm/h, mm or dBZ"):
        from_rate(np.ones(3), "inch", None, 5.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="VIL is neither"):
        to_pysteps(xr.Dataset({"vil": (("y", "x"), np.ones((2, 2)))}))


@needs_pysteps
def test_the_forecast_is_a_method_of_pysteps(tiny_model: Path, nowcaster: Nowcaster) -> None:
    register("tiny", model=str(tiny_model), solver="ddim-2")
    with quietly():
        import pysteps
    method = pysteps.nowcasts.get_method("tiny")
    rain = np.random.default_rng(0).gamma(0.4, 5.0, (8, 40, 52))
    rain[:, 3, 4] = np.nan
    made = method(rain, np.zeros((2, 40, 52)), 6, n_ens_members=3, seed=5)
    assert made.shape == (3, 6, 40, 52)
    assert np.isnan(made[:, :, 3, 4]).all()
    assert np.isfinite(np.delete(made, 4, axis=3)).all()
    assert np.nanmax(np.abs(made[0] - made[1])) > 0
    np.testing.assert_array_equal(method(rain, None, [2, 5], 2, 5), made[:2, [1, 4]])
    decibel, _ = from_rate(rain, "mm/h", "dB", 5.0)
    in_decibel = method(decibel, None, 1, 1, 5, transform="dB")
    assert np.nanmin(in_decibel) >= -15.0
    with pytest.raises(ValueError, match="no method of"):
        register("steps", model=str(tiny_model), solver="ddim-2")
    with pytest.raises(UserError, match="one solver"):
        PystepsNowcast.load(str(tiny_model), "persistence")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": 7}, "timesteps 1 to 6"),
        ({"timesteps": [0.5]}, "timesteps 1 to 6"),
        ({"timesteps": []}, "timesteps 1 to 6"),
        ({"precip": np.zeros((3, 40, 52))}, "7 or more frames"),
        ({"precip": -np.ones((7, 40, 52))}, "0 or more"),
        ({"n_ens_members": 0}, "n_ens_members"),
    ],
)
def test_calls_that_do_not_fit_the_model_are_refused(tiny_model: Path, change: dict, message: str) -> None:
    method = PystepsNowcast.load(str(tiny_model), "ddim-2")
    arguments = {"precip": np.zeros((7, 40, 52)), "velocity": None, "timesteps": 2, "n_ens_members": 1} | change
    with pytest.raises(ValueError, match=message):
        method(**arguments)
