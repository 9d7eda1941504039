"""Hostile inputs: whatever a file holds, there is a valid nowcast of it or one line, and never a part of a file."""

from __future__ import annotations

import io
import tempfile
import warnings
from contextlib import redirect_stderr
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.nowcast.forecast import main
from apps.nowcast.forecasting.choosing import SLACK
from apps.nowcast.forecasting.options import ForecastOptions
from data_tools.cli import run

UNITS = ("mm h-1", "kg m-2 h-1", "kg m-2 s-1", "m s-1", "dBZ", "K", "", "mm/h", "bogus")
VALUES = ("rain", "noise", "dry", "constant", "nan", "some nan", "huge", "some huge", "infinite", "negative", "tiny")
CLOCKS = ("even", "gap", "doubled", "backwards", "shuffled", "constant", "nan", "other step", "far", "few", "jitter")
AXES = ("even", "uneven", "nan", "absent", "descending", "degrees", "huge")


def values_of(kind: str, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rain = generator.gamma(0.3, 5.0, shape)
    some = generator.random(shape) < 0.005
    return {
        "rain": rain,
        "noise": generator.normal(0.0, 10.0, shape),
        "dry": np.zeros(shape),
        "constant": np.full(shape, 3.7),
        "nan": np.full(shape, np.nan),
        "some nan": np.where(generator.random(shape) < 0.5, np.nan, rain),
        "huge": rain * 1e30,
        "some huge": np.where(some, 1e35, rain),
        "infinite": np.where(some, np.inf, np.where(generator.random(shape) < 0.01, -np.inf, rain)),
        "negative": np.where(generator.random(shape) < 0.3, -3.0, rain),
        "tiny": rain * 1e-30,
    }[kind]


def times_of(kind: str, count: int, seed: int) -> np.ndarray:
    """Seconds since 2020."""
    generator = np.random.default_rng(seed)
    even = 300.0 * np.arange(count)
    return {
        "even": even,
        "gap": even + 300.0 * (np.arange(count) >= count // 2),
        "doubled": even - 300.0 * (np.arange(count) == count - 1),
        "backwards": even[::-1],
        "shuffled": generator.permutation(even),
        "constant": np.zeros(count),
        "nan": np.where(np.arange(count) == count // 2, np.nan, even),
        "other step": 7.3 * even,
        "far": even + 1e17,
        "few": even[:count] * 12.0,
        "jitter": even + generator.uniform(-100, 100, count),
    }[kind]


def axis_of(kind: str, count: int) -> np.ndarray | None:
    even = 1000.0 * np.arange(count)
    return {
        "even": even, "uneven": even**1.5, "nan": np.where(np.arange(count) == 0, np.nan, even), "absent": None,
        "descending": even[::-1], "degrees": 20.0 + 0.01 * np.arange(count), "huge": 1e30 * even,
    }[kind]  # fmt: skip


files = st.fixed_dictionaries({
    "height": st.integers(0, 50), "width": st.integers(0, 50), "frames": st.integers(0, 12),
    "values": st.sampled_from(VALUES), "units": st.sampled_from(UNITS), "clock": st.sampled_from(CLOCKS),
    "x": st.sampled_from(AXES), "y": st.sampled_from(AXES), "seed": st.integers(0, 99),
})  # fmt: skip

plausible = st.fixed_dictionaries({
    "height": st.integers(1, 50), "width": st.integers(1, 50), "frames": st.integers(7, 12),
    "values": st.sampled_from(VALUES), "units": st.sampled_from((*UNITS[:4], "dBZ")),
    "clock": st.sampled_from(("even", "even", "gap", "backwards", "shuffled", "jitter")),
    "x": st.sampled_from(("even", "descending")), "y": st.sampled_from(("even", "descending")),
    "seed": st.integers(0, 99),
})  # fmt: skip

requests = st.fixed_dictionaries({
    "suffix": st.sampled_from((".nc", ".nc", ".zarr")), "members": st.integers(1, 3),
    "thresholds": st.sampled_from(("", "0.1 1 5", "0", "1e9")), "mean": st.booleans(), "late": st.booleans(),
    "dry": st.booleans(),
})  # fmt: skip


def write(path: Path, made: dict) -> None:
    shape = (made["frames"], made["height"], made["width"])
    with netCDF4.Dataset(path, "w") as file:
        for name, size in zip(("time", "y", "x"), shape, strict=True):
            file.createDimension(name, max(size, 0) or None)
        time = file.createVariable("time", "f8", ("time",))
        time.units = "seconds since 2020-01-01"
        if made["frames"]:
            time[:] = times_of(made["clock"], made["frames"], made["seed"])
        for name, size in (("y", made["height"]), ("x", made["width"])):
            values = axis_of(made[name], size)
            if values is not None and size:
                axis = file.createVariable(name, "f8", (name,))
                axis.units = "degrees_north" if made[name] == "degrees" else "m"
                axis[:] = values
        field = file.createVariable("rain", "f8", ("time", "y", "x"))
        field.standard_name, field.units = "rainfall_flux", made["units"]
        if min(shape):
            field[:] = values_of(made["values"], shape, made["seed"])


def check(made: dict, request: dict, model: Path) -> bool:
    """Run the command on a file made so; see that there is a valid output or one line. Whether there is an output."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in.nc", Path(folder) / f"made/out{request['suffix']}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the nonsense that is written here
            write(source, made)
        words = [str(source), "--out", str(out), "--model", str(model), "--solver", "ddim-1"]
        words += ["--members", str(request["members"]), "--probabilities", request["thresholds"]]
        words += ["--mean"] * request["mean"] + ["--sample_dry"] * request["dry"]
        words += ["--deadline", "1e-9"] * request["late"]
        told, code = io.StringIO(), 0
        with redirect_stderr(told):
            try:
                run(ForecastOptions, main, prog="forecast", description="", examples="",
                    positional=[("input", "")], argv=words)  # fmt: skip
            except SystemExit as stopped:
                code = int(stopped.code or 0)
        if code:
            assert code == 2
            assert told.getvalue().startswith("forecast: expected ")
            assert told.getvalue().count("\n") == 1
            assert not list(out.parent.glob("*"))
            assert not list(out.parent.glob(".*"))
            return False
        assert [path.name for path in out.parent.iterdir()] == [out.name]
        with xr.open_zarr(out, chunks=None) if out.suffix == ".zarr" else xr.open_dataset(out) as data:
            rate = data["rainfall_rate"].to_numpy()
            members = 1 if data.attrs["spanlift_fallback"] != "no" else request["members"]
            assert rate.shape == (members, 6, made["height"], made["width"])
            known = np.isfinite(rate)
            assert known.any()
            assert (known == known[:1, :1]).all()
            assert (rate[known] >= 0.0).all()
            assert (rate[known] <= 1000.0).all()
            steps = np.diff(data["time"].to_numpy()) / np.timedelta64(300, "s")
            assert (steps == steps[0]).all()
            # the model does not say which steps it was trained on, so any is taken
            if made["clock"] != "jitter":
                assert abs(steps[0] - {"other step": 7.3, "few": 12.0}.get(made["clock"], 1.0)) <= SLACK
            if request["thresholds"]:
                share = data["rainfall_rate_probability"].to_numpy()
                assert ((share >= 0.0) & (share <= 1.0))[np.isfinite(share)].all()
    return True


@pytest.mark.parametrize("units", ["mm h-1", "kg m-2 h-1", "dBZ"])
@pytest.mark.parametrize("values", ["rain", "dry", "some nan", "constant"])
@pytest.mark.parametrize("late", [False, True])
def test_usual_inputs_are_forecast(tiny_model: Path, units: str, values: str, late: bool) -> None:
    made = {"height": 9, "width": 37, "frames": 8, "clock": "even", "x": "even", "y": "descending", "seed": 1}
    request = {"suffix": ".nc", "members": 2, "thresholds": "0.1 1", "mean": True, "late": late, "dry": False}
    assert check(made | {"units": units, "values": values}, request, tiny_model)


settled = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@given(st.one_of(files, plausible), requests)
@settings(settled, max_examples=50)
def test_hostile_inputs(tiny_model: Path, made: dict, request_: dict) -> None:
    check(made, request_, tiny_model)


@pytest.mark.slow
@given(st.one_of(files, plausible), requests)
@settings(settled, max_examples=1000)
def test_a_thousand_hostile_inputs(tiny_model: Path, made: dict, request_: dict) -> None:
    check(made, request_, tiny_model)


@given(st.binary(max_size=400))
@settings(settled, max_examples=20)
def test_any_bytes(tiny_model: Path, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.nc"
        source.write_bytes(content)
        told = io.StringIO()
        with redirect_stderr(told), pytest.raises(SystemExit) as stopped:
            run(ForecastOptions, main, prog="forecast", description="", examples="", positional=[("input", "")],
                argv=[str(source), "--out", f"{folder}/out.nc", "--model", str(tiny_model)])  # fmt: skip
        assert stopped.value.code == 2
        assert told.getvalue().count("\n") == 1
        assert not Path(folder, "out.nc").exists()
