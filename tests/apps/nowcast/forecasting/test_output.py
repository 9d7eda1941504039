from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from apps.nowcast.forecasting.clock import Deadline
from apps.nowcast.forecasting.ensemble import Ensemble, member_seeds
from apps.nowcast.forecasting.production import Order, produce, stored
from apps.nowcast.forecasting.scene import Place, Scene
from apps.nowcast.forecasting.summary import Summary
from apps.nowcast.methods import Method
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.output.formats import check_output, opened
from apps.nowcast.output.georeference import longitude_latitude
from apps.nowcast.output.layout import Layout
from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE, VIL

ORDER = Order(3, 1, (0.1, 1.0), True, {"unet.safetensors": "abc"}, "the command", "the institute")


@pytest.fixture(scope="module")
def ensemble(nowcaster: Nowcaster, method: Method, rain: Callable, scene_of: Callable) -> Ensemble:
    frames = rain(40, 37)
    frames[:, :3] = np.nan
    frames[2, 9, 9] = np.nan
    return Ensemble.build(nowcaster, method, scene_of(frames), overlap=8, batch=4, sample_dry=False)


@pytest.fixture(scope="module")
def wanted(ensemble: Ensemble) -> np.ndarray:
    """What the members of `ORDER` must be."""
    seeds = member_seeds(ORDER.seed, ensemble.scene, ORDER.members)
    return np.stack([stored(ensemble.member(seed)[0], RAINFALL_RATE) for seed in seeds])


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_the_file_holds_what_was_sampled(tmp_path: Path, ensemble: Ensemble, wanted: np.ndarray, suffix: str) -> None:
    out = tmp_path / f"n{suffix}"
    nowcast = produce(out, ensemble, ORDER)
    with xr.open_zarr(out, chunks=None) if suffix == ".zarr" else xr.open_dataset(out) as data:
        rate = data["rainfall_rate"]
        assert rate.dims == ("realization", "time", "y", "x")
        np.testing.assert_array_equal(rate.to_numpy(), wanted)
        np.testing.assert_allclose(data["rainfall_rate_mean"].to_numpy(), wanted.mean(0), rtol=1e-6)
        above = np.where(np.isnan(wanted[0]), np.nan, (wanted >= np.float32(1.0)).mean(0))
        np.testing.assert_allclose(data["rainfall_rate_probability"].to_numpy()[1], above, rtol=1e-6)
        assert np.isnan(rate.to_numpy()[:, :, :3]).all()
        np.testing.assert_array_equal(data["time"].to_numpy(), ensemble.scene.valid_times(6))
        assert data["forecast_reference_time"].to_numpy() == ensemble.scene.init_time
        np.testing.assert_array_equal(data["x"].to_numpy(), ensemble.scene.place.x)
        told = dict(data.attrs)
    assert told["Conventions"] == "CF-1.11"
    assert told["spanlift_solver"] == "ddim-2, 2 steps"
    assert told["spanlift_nfe"] == 2
    assert told["spanlift_fallback"] == "no"
    assert told["spanlift_checkpoint_sha256"] == "unet.safetensors:abc"
    assert len(told["spanlift_member_seeds"].split()) == 3
    assert told["spanlift_missing_fraction"] == pytest.approx(1 / (7 * 37 * 37))
    assert told["institution"] == "the institute"
    assert told["history"].endswith("Z: the command")
    np.testing.assert_array_equal(nowcast.members, wanted)
    assert not list(tmp_path.glob(".*"))


def test_a_geotiff_has_a_band_for_each_member_and_lead(
    tmp_path: Path, ensemble: Ensemble, wanted: np.ndarray, scene_of: Callable
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra geotiff is not installed")
    produce(tmp_path / "n.tif", ensemble, ORDER)
    with rasterio.open(tmp_path / "n.tif") as file:
        assert file.count == 3 * 6 + 6 + 2 * 6
        bands = file.read(masked=True).filled(np.nan)
        np.testing.assert_array_equal(bands[:18].reshape(3, 6, 40, 37), wanted)
        np.testing.assert_allclose(bands[18:24], wanted.mean(0), rtol=1e-6)
        assert file.descriptions[7] == "rainfall_rate member 1 +10 min"
        assert file.descriptions[24] == "rainfall_rate_probability of 0.1 kg m-2 h-1 +5 min"
        assert file.tags()["spanlift_nfe"] == "2"
        assert file.xy(0, 0) == (ensemble.scene.place.x[0], ensemble.scene.place.y[0])
        assert file.crs.to_dict()["proj"] == "stere"
    upside_down = scene_of(np.ascontiguousarray(ensemble.scene.frames[:, ::-1]), north_up=False)
    with opened(tmp_path / "s.tif", _layout(upside_down)) as writer:
        writer.write("rainfall_rate", 0, upside_down.frames[:6])
    with rasterio.open(tmp_path / "s.tif") as file:
        np.testing.assert_array_equal(file.read(1, masked=True).filled(np.nan), ensemble.scene.frames[0])
        assert file.xy(0, 0) == (ensemble.scene.place.x[0], ensemble.scene.place.y[0])


def _layout(scene: Scene, **changes: object) -> Layout:
    layout = Layout(scene.quantity, scene.place, scene.init_time, scene.valid_times(6), 1)
    return replace(layout, **changes)  # type: ignore[arg-type]


def geographic(shape: tuple[int, int]) -> Place:
    crs = {"grid_mapping_name": "latitude_longitude", "semi_major_axis": 6378137.0, "inverse_flattening": 298.257222101}
    return Place(-100 + 0.01 * np.arange(shape[1]), 40 - 0.01 * np.arange(shape[0]), "degrees", crs)


def test_files_keep_to_the_conventions(tmp_path: Path, ensemble: Ensemble) -> None:
    if find_spec("compliance_checker") is None:
        pytest.skip("compliance-checker is not installed")
    scene, paths = ensemble.scene, []
    laea = {"grid_mapping_name": "lambert_azimuthal_equal_area", "latitude_of_projection_origin": 38.0}
    laea |= {"longitude_of_projection_origin": -98.0, "earth_radius": 6370997.0}
    scenes = {
        "projected": scene,
        "geographic": replace(scene, place=geographic(scene.place.shape)),
        "nowhere": replace(scene, place=replace(scene.place, crs={})),
        "vil": replace(scene, quantity=VIL, place=replace(scene.place, crs=laea)),
    }
    for kind, changed in scenes.items():
        paths.append(tmp_path / f"{kind}.nc")
        produce(paths[-1], replace(ensemble, scene=changed), ORDER)
    paths.append(tmp_path / "fallback.nc")
    produce(paths[-1], ensemble, ORDER, Deadline(1e-9))
    for path in paths:
        command = [str(Path(sys.executable).with_name("compliance-checker")), "-t", "cf:1.11", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert "All tests passed!" in done.stdout, done.stdout + done.stderr
        assert done.returncode == 0


def test_longitudes_agree_with_the_projection(scene_of: Callable, rain: Callable) -> None:
    pytest.importorskip("pyproj", reason="the extra geo is not installed")
    from data_tools.projection import spherical_stereographic

    place = scene_of(rain(5, 7)).place
    degrees = longitude_latitude(place)
    assert degrees is not None
    there = spherical_stereographic(
        degrees[0][3, 2], degrees[1][3, 2], central_longitude=25.0, true_latitude=60.0, radius=6371288.0
    )
    np.testing.assert_allclose(there, (place.x[2], place.y[3]), rtol=1e-6, atol=1e-2)


@pytest.mark.parametrize("suffix", [".nc", ".zarr", ".tif"])
def test_an_error_leaves_what_was_there(tmp_path: Path, ensemble: Ensemble, suffix: str) -> None:
    if suffix == ".tif":
        pytest.importorskip("rasterio", reason="the extra geotiff is not installed")
    out = tmp_path / f"n{suffix}"
    produce(out, ensemble, replace(ORDER, members=1))
    before = sorted((path.relative_to(tmp_path), path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())

    class Full(OSError): ...

    def fill_the_disk() -> None:
        with opened(out, _layout(ensemble.scene)) as writer:
            writer.write("rainfall_rate", 0, ensemble.scene.frames[:6])
            raise Full

    with pytest.raises(Full):
        fill_the_disk()
    after = sorted((path.relative_to(tmp_path), path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())
    assert before == after
    produce(out, ensemble, replace(ORDER, members=2))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "file.nc").write_text("")
    for name, overwrite in (("a.png", False), ("folder.zarr", True), ("file.nc", False), ("file.nc/n.nc", False)):
        with pytest.raises(UserError):
            check_output(tmp_path / name, overwrite)
    check_output(tmp_path / "file.nc", True)
    check_output(tmp_path / "new.zarr", False)


def test_sums_by_brute_force() -> None:
    generator = np.random.default_rng(3)
    fields = stored(generator.gamma(0.5, 1.0, (5, 2, 3, 4)).astype(np.float32).reshape(10, 3, 4), RAINFALL_RATE)
    fields = fields.reshape(5, 2, 3, 4)
    fields[:, :, 0, 0] = np.nan
    summary = Summary((2, 3, 4), (0.1, 2.0), mean=True)
    for member in fields:
        summary.add(member)
    np.testing.assert_allclose(summary.mean(), fields.mean(0), rtol=1e-6)
    for number, threshold in enumerate((0.1, 2.0)):
        share = (fields.astype(np.float64) > threshold - 0.004).mean(0)  # fields come in steps of 0.01
        share[:, 0, 0] = np.nan
        np.testing.assert_allclose(summary.probability(number), share, rtol=1e-6)


def test_zarr_is_opened_without_a_warning(tmp_path: Path, ensemble: Ensemble) -> None:
    produce(tmp_path / "n.zarr", ensemble, replace(ORDER, members=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.open_zarr(tmp_path / "n.zarr", chunks=None).load()
