from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from data_tools.cli import UserError
from data_tools.ingest import FORMATS, Options, main, plan
from data_tools.store import EventStore, check_store

ROOT = Path(__file__).resolve().parents[2]
ROWS, COLUMNS = 40, 52
Write = Callable[..., list[Path]]
RunCli = Callable[..., subprocess.CompletedProcess[str]]
SMALL = {"patch": 16, "frames": 3}


def frame_times(count: int, minutes: int = 5) -> np.ndarray:
    return np.datetime64("2012-06-30T23:00:00", "s") + np.arange(count) * np.timedelta64(60 * minutes, "s")


def wet_codes(count: int) -> np.ndarray:
    """KNMI pixel values of 1.2 mm/h or more everywhere."""
    return np.random.default_rng(5).integers(10, 400, size=(count, ROWS, COLUMNS))


def ingest(src: Path, kind: str, out: Path, **more: object) -> EventStore:
    main(Options(src=str(src), out=str(out), format=kind, **{**SMALL, **more}))  # type: ignore[arg-type]
    assert check_store(out) == []
    return EventStore.open(out, "rainfall_rate")


def test_a_knmi_archive_becomes_a_store(
    tmp_path: Path, knmi_archive: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    times, codes = frame_times(20), wet_codes(20)
    knmi_archive(tmp_path / "knmi", times, codes)
    store = ingest(tmp_path / "knmi", "knmi", tmp_path / "out" / "a.zarr")
    # 20 frames: train 0-8, val 9-11, nobody 12 and 13, test 14-19; six tiles
    assert [len(store.indices(split)) for split in ("train", "val", "test")] == [18, 6, 12]
    assert capsys.readouterr().out.strip() == f"{tmp_path / 'out' / 'a.zarr'}: 36 events (12 test, 18 train, 6 val)"
    assert (store.shape, store.time_step_seconds) == ((36, 3, 16, 16), 300.0)
    assert "KNMI" in store.attrs["licence"]
    assert store.crs["grid_mapping_name"] == "polar_stereographic"
    index = store.ids.index("knmi-20120701T0010-y16-x32")
    assert store.splits[index] == "test"
    np.testing.assert_array_equal(store.times(index), times[14:17])
    np.testing.assert_allclose(store.read(index), 0.12 * codes[14:17, 16:32, 32:48], rtol=1e-5)
    assert tuple(store.origins[index]) == (3000.0 + 32_000.0, -3_650_000.0 - 16_000.0)
    frames = {
        split: {time for i in store.indices(split) for time in store.times(i)} for split in ("train", "val", "test")
    }
    assert not frames["train"] & frames["val"]
    assert not frames["val"] & frames["test"]
    with xr.open_zarr(tmp_path / "out" / "a.zarr", consolidated=False) as data:
        np.testing.assert_allclose(data["rainfall_rate"][index], store.read(index), rtol=1e-6)


def test_an_fmi_archive_of_two_days_becomes_a_store(tmp_path: Path, fmi_archive: Write) -> None:
    codes = np.random.default_rng(5).integers(110, 180, size=(8, ROWS, COLUMNS))
    codes[:, :3, :2] = 255
    fmi_archive(tmp_path / "fmi" / "b", frame_times(4), codes[:4])
    fmi_archive(tmp_path / "fmi" / "a", frame_times(4) + np.timedelta64(40, "D"), codes[4:])
    store = ingest(tmp_path / "fmi", "fmi", tmp_path / "a.zarr", split="val", stride=1, eval_stride=1, max_missing=0.5)
    assert store.splits == ("val",) * 24  # two starts a day, six tiles
    assert len({str(store.times(i)[0]) for i in range(24)}) == 4
    np.testing.assert_array_equal(np.diff(store.valid_times, axis=1), np.timedelta64(300, "s"))
    assert np.isnan(store.read(store.ids.index("fmi-20120630T2300-y0-x0"))).sum() == 3 * 6
    assert store.attrs["licence"].startswith("CC BY 4.0")
    assert "223" in store.attrs["rate"]


def test_sessions_are_told_in_one_line(tmp_path: Path, knmi_archive: Write, run_cli: RunCli) -> None:
    knmi_archive(tmp_path / "knmi", frame_times(6), wet_codes(6))
    knmi_archive(tmp_path / "knmi", frame_times(6) + np.timedelta64(10, "h"), wet_codes(6))
    size = ("--patch", "16", "--frames", "3", "--split", "test")
    done = run_cli(
        "data_tools.ingest", str(tmp_path / "knmi"), "--format", "knmi", "--out", str(tmp_path / "a.zarr"), *size,
        COLUMNS="40",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "session" in line)
    assert line.endswith("for 3 h or more: 2012-06-30T23:25:00 to 2012-07-01T09:00:00 (9.6 h)")
    assert line.startswith("2 sessions")
    assert "24 events (24 test)" in done.stdout


def test_an_mrms_archive_becomes_a_store(
    tmp_path: Path, mrms_archive: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    times = frame_times(7, minutes=2)
    rates = np.random.default_rng(5).integers(10, 400, size=(7, ROWS, COLUMNS)) / 10.0
    rates[:, :20] = -3.0
    mrms_archive(tmp_path / "mrms", times, rates)
    store = ingest(tmp_path / "mrms", "mrms", tmp_path / "a.zarr")
    assert "4 frames do not make parts of 3: all went to train" in " ".join(capsys.readouterr().err.split())
    assert (store.time_step_seconds, set(store.splits)) == (240.0, {"train"})
    np.testing.assert_array_equal(store.times(0), times[[0, 2, 4]])
    assert set(store.ids) == {f"mrms-20120630T2300-y20-x{column}" for column in (0, 16, 32)}
    np.testing.assert_allclose(store.read(1), rates[0:5:2, 20:36, 16:32], rtol=1e-5)
    np.testing.assert_allclose(store.origins[1], (-130.0 + 0.16, 55.0 - 0.20))
    fine = ingest(tmp_path / "mrms", "mrms", tmp_path / "b.zarr", frame_step=1, split="train")
    np.testing.assert_array_equal(fine.times(0), times[:3])
    assert fine.time_step_seconds == 120.0


def test_windows_are_cut_around_gaps_on_request(tmp_path: Path, knmi_archive: Write) -> None:
    codes = wet_codes(12)
    codes[7] = 65535
    paths = knmi_archive(tmp_path / "knmi", frame_times(12), codes)
    paths[3].unlink()
    store = ingest(tmp_path / "knmi", "knmi", tmp_path / "a.zarr", gaps="split", split="test", eval_stride=1)
    begins = {int((store.times(i)[0] - frame_times(1)[0]) / np.timedelta64(300, "s")) for i in range(len(store))}
    assert begins == {0, 4, 8, 9}


def test_times_can_be_chosen(tmp_path: Path, knmi_archive: Write) -> None:
    knmi_archive(tmp_path / "knmi", frame_times(12), wet_codes(12))
    begin, end = "2012-06-30T23:10", "2012-06-30T23:35"
    store = ingest(tmp_path / "knmi", "knmi", tmp_path / "a.zarr", start=begin, end=end, split="train", stride=2)
    assert {str(store.times(i)[0]) for i in range(len(store))} == {"2012-06-30T23:10:00", "2012-06-30T23:20:00"}


def test_options_that_sevir_has_no_use_for_are_refused(tmp_path: Path) -> None:
    for change in ({"overlap": 4}, {"wet_fraction": 0.2}, {"splits": (0.1, 0.2, 0.3)}):
        with pytest.raises(UserError, match=f"expected no --{next(iter(change))} for sevir"):
            main(Options(src=str(tmp_path), out=str(tmp_path / "a"), format="sevir", **change))  # type: ignore[arg-type]


def prepare(case: str, folder: Path, knmi_archive: Write) -> None:
    """Make the archive of one of `COMPLAINTS`, and spoil it."""
    codes = wet_codes(9)
    if case == "dry":
        codes[:] = 0
    if case == "all missing":
        codes[4] = 65535
    count = {"too short": 2, "single": 1}.get(case, 9)
    paths = knmi_archive(folder, frame_times(count), codes[:count])
    if case == "truncated":
        paths[5].write_bytes(paths[5].read_bytes()[:700])
    if case == "foreign":
        (folder / "README.txt").write_text("about")
    if case == "foreign content":
        paths[5].write_text("<html>")
    if case == "gap":
        paths[5].unlink()
    if case == "place":
        with h5py.File(paths[6], "a") as file:
            file["geographic"].attrs["geo_row_offset"] = np.float32([3700])
    if case == "shape":
        knmi_archive(folder, frame_times(9)[8:], codes[8:, :30])
    if case == "renamed":
        paths[8].rename(folder / "RAD_NL25_RAP_5min_201206302355.h5")
    if case == "empty":
        for path in paths:
            path.unlink()


COMPLAINTS: dict[str, tuple[str, dict[str, object]]] = {
    "truncated": ("truncated or foreign", {}),
    "foreign": ("got README.txt", {}),
    "foreign content": ("truncated or foreign", {}),
    "gap": ("expected a frame every 300 s, got 600 s", {}),
    "all missing": ("only missing pixels", {}),
    "shape": ("frames of (40, 52) like the first, got (30, 52)", {}),
    "place": ("expected frames on one grid, y0", {}),
    "renamed": ("in the header of", {"gaps": "split"}),
    "empty": ("got none", {}),
    "too short": ("at least 3 successive frames, got 2", {}),
    "single": ("several frames, got one", {}),
    "dry": ("got none: change --wet_fraction", {}),
    "splits": ("three ascending fractions", {"splits": (0.5, 0.2, 0.9)}),
    "patch": ("lower --patch", {"patch": 64}),
    "step": ("expected --frame_step of 1 or more", {"frame_step": 0}),
    "time": ("expected --start as a UTC time", {"start": "noon"}),
}
"""What the complaint about an archive (`prepare`) or an option says."""


def leaves_nothing(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.name == "zarr.json" or "partial" in path.name]


@pytest.mark.parametrize("case", COMPLAINTS)
def test_a_mistake_is_told_in_words(
    case: str, tmp_path: Path, knmi_archive: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    words, more = COMPLAINTS[case]
    prepare(case, tmp_path / "knmi", knmi_archive)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        ingest(tmp_path / "knmi", "knmi", tmp_path / "out" / "a.zarr", **more)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")
    assert leaves_nothing(tmp_path)


@pytest.mark.parametrize("case", ["truncated", "foreign", "gap", "place", "all missing", "empty", "unknown format"])
def test_a_mistake_costs_one_line(case: str, tmp_path: Path, knmi_archive: Write, run_cli: RunCli) -> None:
    prepare(case, tmp_path / "knmi", knmi_archive)
    kind, words = ("grib7", "grib7") if case == "unknown format" else ("knmi", COMPLAINTS[case][0])
    out = tmp_path / "out" / "a.zarr"
    size = ("--patch", "16", "--frames", "3")
    done = run_cli("data_tools.ingest", str(tmp_path / "knmi"), "--format", kind, "--out", str(out), *size)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert words in done.stderr
    assert done.stdout == ""
    assert leaves_nothing(tmp_path)


def test_an_existing_output_is_untouched(tmp_path: Path, knmi_archive: Write, run_cli: RunCli) -> None:
    paths = knmi_archive(tmp_path / "knmi", frame_times(9), wet_codes(9))
    out = tmp_path / "a.zarr"
    ingest(tmp_path / "knmi", "knmi", out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    command = [str(tmp_path / "knmi"), "--format", "knmi", "--out", str(out), "--patch", "16", "--frames", "3"]
    for spoil, more in ((False, []), (True, ["--overwrite"])):
        if spoil:  # a mistake discovered halfway, when the former store could be gone already
            paths[7].write_text("<html>")
        done = run_cli("data_tools.ingest", *command, *more)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "knmi"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell that limits the size of files")
def test_a_full_disk_costs_one_line(tmp_path: Path, knmi_archive: Write) -> None:
    """The limit on the size of files stands in for the disk: writing fails halfway, in a chunk of an event."""
    knmi_archive(tmp_path / "knmi", frame_times(9), wet_codes(9))
    words = f"-m data_tools.ingest {tmp_path}/knmi --format knmi --out {tmp_path}/out/a.zarr --patch 32 --frames 3"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 4; exec {sys.executable} -B {words}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "no space left for" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_the_real_archives_are_planned_as_documented(shared: Path, tmp_path: Path) -> None:
    options = Options(src=str(shared / "radar" / "knmi"), out=str(tmp_path / "a.zarr"), format="knmi")
    stamps, splits, step = plan(options, FORMATS["knmi"])
    assert (len(stamps), step) == (92, 300)
    assert str(stamps[splits.index("test")].time) == "2010-08-26T05:10:00"
    options = Options(src=str(shared / "radar" / "fmi"), out=str(tmp_path / "a.zarr"), format="fmi")
    stamps, splits, step = plan(options, FORMATS["fmi"])
    assert (len(stamps), step, stamps[-1].run) == (80, 300, 1)
    options = Options(src=str(shared / "radar" / "mrms"), out=str(tmp_path / "a.zarr"), format="mrms")
    stamps, splits, step = plan(options, FORMATS["mrms"])
    assert (len(stamps), step, set(splits)) == (18, 240, {"train"})


def test_a_part_of_the_real_archive(shared: Path, tmp_path: Path) -> None:
    src = shared / "radar" / "knmi"
    store = ingest(
        src, "knmi", tmp_path / "a.zarr", patch=64, start="2010-08-26T07:00", end="2010-08-26T07:20", split="test"
    )
    assert len(store) > 8
    assert set(store.splits) == {"test"}
    for index in range(len(store)):
        values = store.read(index)
        assert np.isnan(values).mean() <= 0.02
        assert (values >= 0.5).mean() > 0.04  # --wet_fraction is a share of all pixels, this one of those seen
        assert np.nanmax(values) < 200.0
