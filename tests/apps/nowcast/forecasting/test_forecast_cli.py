from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

MODULE = "apps.nowcast.forecast"
TIMES = np.datetime64("2020-02-29T23:40:00", "s") + np.arange(8) * np.timedelta64(300, "s")


@pytest.fixture
def base(tiny_model: Path) -> list[str]:
    return ["--model", str(tiny_model), "--solver", "ddim-1", "--members", "2"]


@pytest.fixture
def archive(tmp_path: Path, write_fmi: Callable, rain: Callable) -> Path:
    dbz = 10 * np.log10(223.0 * np.maximum(rain(36, 45, frames=8), 1e-3) ** 1.53)
    codes = (2 * dbz + 64).clip(0, 254).astype(np.uint8)
    codes[:, :2] = 255
    write_fmi(tmp_path / "archive", TIMES, codes)
    return tmp_path / "archive"


def test_from_an_archive_to_a_file(run_cli: Callable, archive: Path, rain: Callable, tmp_path: Path) -> None:
    """As a user would: the shipped model and solver, a real process."""
    out = tmp_path / "made/n.nc"
    done = run_cli(MODULE, str(archive), "--members", "1", "--out", str(out), "--mean", "--probabilities", "0.1", "5")
    assert done.returncode == 0, done.stderr
    assert f"wrote {out}" in done.stderr
    assert done.stdout == ""
    with xr.open_dataset(out) as data:
        assert data["rainfall_rate"].shape == (1, 6, 36, 45)
        assert data.attrs["spanlift_nfe"] == 5
        assert data.attrs["spanlift_solver"].startswith("spanlift-5 (target)")
        assert "spanlift-target.safetensors:" in data.attrs["spanlift_checkpoint_sha256"]
        assert data["forecast_reference_time"].to_numpy() == TIMES[-1]
        np.testing.assert_allclose(data["threshold"], [0.1, 5.0], rtol=1e-6)
        first = data["rainfall_rate"][0, 0].to_numpy()
    assert np.isnan(first[:2]).all()
    seen = rain(36, 45, frames=8)[-1, 2:]  # five minutes later it is much like it was
    assert np.corrcoef(np.log1p(seen).ravel(), np.log1p(first[2:]).ravel())[0, 1] > 0.6


def test_pictures(run_here: Callable, archive: Path, base: list[str], tmp_path: Path) -> None:
    out = tmp_path / "n.nc"
    done = run_here(MODULE, str(archive), "--out", str(out), "--plot", "--probabilities", "1", *base)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "n.png") as panels:
        assert panels.format == "PNG"
        assert panels.width > 800
    with Image.open(tmp_path / "n.gif") as animation:
        assert animation.n_frames == 7 + 6
        assert animation.info["loop"] == 0
        shades = []
        for moment in range(animation.n_frames):
            animation.seek(moment)
            shades.append(np.asarray(animation.convert("L"), np.float64))
    assert np.abs(shades[0] - shades[-1]).max() > 50


def test_a_past_beginning_and_a_missing_frame_are_told(
    run_here: Callable, archive: Path, base: list[str], tmp_path: Path
) -> None:
    next(archive.glob("*2345*")).unlink()  # the second
    out = tmp_path / "n.zarr"
    done = run_here(MODULE, str(archive), "--time", "2020-03-01T00:13", "--out", str(out), *base)
    assert done.returncode == 0, done.stderr
    assert "no frame at 2020-02-29T23:45:00, the one of 2020-02-29T23:40:00 stands for it" in done.stderr
    with xr.open_zarr(out, chunks=None) as data:
        assert data["forecast_reference_time"].to_numpy() == np.datetime64("2020-03-01T00:10:00")
        assert "2020-02-29T23:45:00Z by 2020-02-29T23:40:00Z" in data.attrs["spanlift_substituted_frames"]


def test_the_same_seed_gives_the_same_members(
    run_here: Callable, tiny_store: Path, base: list[str], tmp_path: Path
) -> None:
    fields = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        out = tmp_path / f"{name}.nc"
        done = run_here(MODULE, str(tiny_store), "--seed", str(seed), "--out", str(out), *base)
        assert done.returncode == 0, done.stderr
        with xr.open_dataset(out) as data:
            fields.append(data["rainfall_rate"].to_numpy())
    np.testing.assert_array_equal(fields[0], fields[1])
    assert not np.array_equal(fields[0], fields[2], equal_nan=True)


def test_a_watch_falls_back_and_goes_on(run_here: Callable, archive: Path, base: list[str], tmp_path: Path) -> None:
    arguments = ["--watch", str(archive), "--deadline", "0.001", "--runs", "1", "--poll", "0.01"]
    done = run_here(MODULE, *arguments, "--out", str(tmp_path / "out/n.nc"), *base)
    assert done.returncode == 0, done.stderr
    assert "fell back to Eulerian persistence" in done.stderr
    assert "late: it took" in done.stderr
    with xr.open_dataset(tmp_path / "out/n-20200301T001500Z.nc") as data:
        assert data.attrs["comment"].startswith("FALLBACK: not the model's forecast but Eulerian persistence")
        assert data.attrs["spanlift_fallback"].startswith("1 of 7 frames were read after")
        assert "0.001 s were given" in data.attrs["spanlift_fallback"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either an input or --watch"),
        (["nowhere"], "got nowhere, which is not there"),
        (["nowhere", "--members", "0"], "expected --members of at least 1, got 0"),
        (["nowhere", "--probabilities", "5", "1"], "expected --probabilities as rising thresholds"),
        (["nowhere", "--probabilities", "x"], "expected --probabilities as rising thresholds"),
        (["radar.nc", "--out", "./radar.nc", "--overwrite"], "expected another place to write than the input"),
        (["nowhere", "--out", "n.grib"], "expected --out to end in .nc"),
        (["nowhere", "--deadline", "-1"], "expected --deadline as seconds over 0"),
        (["nowhere", "--seed", "-1"], "expected --seed of 0 or more"),
        (["nowhere", "--device", "tpu9"], "expected a device of this machine"),
        (["nowhere", "--runs", "2"], "expected --watch with --runs"),
        (["STORE", "--time", "yesterday"], "expected --time as a UTC time"),
        (["STORE", "--event", "none"], "expected --event in"),
        (["STORE", "--solver", "ddpm-5"], "expected one --solver that draws no noise"),
        (["STORE", "--solver", "ddim-2,ddim-3"], "expected one --solver that draws no noise"),
        (["STORE", "--overlap", "31"], "choose another --overlap"),
        (["STORE"], "expected frames 4 to 5 minutes apart"),
    ],
)
def test_mistakes_cost_one_line(
    run_here: Callable, tiny_store: Path, base: list[str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = ["--out", str(tmp_path / "n.nc")] if "--out" not in arguments else []
    words = [str(tiny_store) if word == "STORE" else word for word in arguments]
    given = base if arguments != ["STORE"] else ["--members", "1", "--time", "2020-01-01T00:00"]
    if arguments == ["STORE"]:
        message = "expected 7 frames 5 minutes apart"
    done = run_here(MODULE, *given, *out, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("python -m apps.nowcast.forecast: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
