"""SEVIR: the VIL code, the splits, and archives in the real layout, whole and broken, by library and by command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CompletedProcess

import h5py
import numpy as np
import pyproj
import pytest

from data_tools.cli import UserError
from data_tools.sevir import (
    SevirArchive,
    SevirCut,
    kg_per_m2_to_vil,
    read_events,
    reduce_codes,
    split_of,
    vil_to_kg_per_m2,
)
from data_tools.store import EventStore

Cli = Callable[..., CompletedProcess[str]]

CHECKED = {  # code: kg/m^2
    0: 0.0,
    5: 0.0,
    6: 0.044121,
    16: 0.154423,
    18: 0.176484,
    19: 0.188552,
    31: 0.256687,
    59: 0.527238,
    74: 0.775305,
    100: 1.512678,
    133: 3.533224,
    160: 7.073095,
    181: 12.135608,
    219: 32.233546,
    254: 79.261352,
}


def test_code_to_vil_meets_the_check_values() -> None:
    assert vil_to_kg_per_m2(np.array(list(CHECKED))) == pytest.approx(list(CHECKED.values()), abs=5e-7)
    assert float(vil_to_kg_per_m2(133)) == pytest.approx(3.533224, abs=5e-7)


def test_code_to_vil_masks_and_rises() -> None:
    assert np.isnan(vil_to_kg_per_m2(np.array([255.0, np.nan]))).all()
    assert vil_to_kg_per_m2(np.array([-3.0, 4.9])).tolist() == [0.0, 0.0]
    rising = vil_to_kg_per_m2(np.linspace(0.0, 254.0, 2001))
    assert (np.diff(rising) >= 0.0).all()


def test_every_code_survives_the_round_trip() -> None:
    codes = np.arange(255)
    back = kg_per_m2_to_vil(vil_to_kg_per_m2(codes.astype(np.uint8)))
    assert back[6:] == pytest.approx(codes[6:], abs=1e-9)
    assert (back[:6] == 0.0).all()  # six codes mean nothing at all


def test_vil_to_code_rises_and_stays_in_range() -> None:
    codes = kg_per_m2_to_vil(np.concatenate([np.linspace(0.0, 0.5, 4001), np.geomspace(0.5, 1e4, 500)]))
    assert (np.diff(codes) >= 0.0).all()
    assert codes.min() == 0.0
    assert codes.max() == 254.0
    assert np.isnan(kg_per_m2_to_vil(np.nan))


@pytest.mark.parametrize(
    ("time", "split"),
    [
        ("2017-06-13T00:00:00", "train"),
        ("2019-01-01T00:00:00", "train"),
        ("2019-01-01T00:00:01", "val"),
        ("2019-06-01T00:00:00", "val"),
        ("2019-06-01T00:05:00", "test"),
        ("2019-11-30T00:00:00", "test"),
    ],
)
def test_splits_go_by_date(time: str, split: str) -> None:
    assert split_of(np.datetime64(time)) == split


def test_reduction_is_that_of_sevir_lr() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (7, 12, 15), dtype=np.uint8)
    small = reduce_codes(codes, 3, 2)
    assert small.shape == (4, 4, 5)
    for t, i, j in np.ndindex(*small.shape):
        assert small[t, i, j] == codes[2 * t, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].max()


OFFSETS = tuple(range(-118, 123, 5))  # as in the real catalogue, the middle frame is not always at 0


@dataclass(frozen=True)
class Row:
    id: str
    file: str
    index: int
    time: str
    missing: str = "0"
    offsets: Sequence[int] = OFFSETS


EARLY, LATE = "vil/2018/SEVIR_VIL_STORMEVENTS_2018_0701_1231.h5", "vil/2019/SEVIR_VIL_STORMEVENTS_2019_0701_1231.h5"
ROWS = (
    Row("S20", EARLY, 0, "2018-07-04 20:02:00"),
    Row("S3", EARLY, 1, "2018-08-01 10:00:00"),
    Row("R5", LATE, 0, "2019-07-09 01:30:00"),
    Row("S9", LATE, 1, "2019-07-10 12:00:00", missing="0.2"),
)
SIDE = 24


def storms_of(seed: int, count: int, side: int = SIDE, frames: int = 49) -> np.ndarray:
    """(N, H, W, T) uint8 codes, never 255."""
    return np.random.default_rng(seed).integers(0, 255, (count, side, side, frames), dtype=np.uint8)


def write_archive(
    root: Path, rows: Sequence[Row] = ROWS, side: int = SIDE, frames: int = 49, ids: bool = True
) -> dict[str, np.ndarray]:
    """An archive in SEVIR's layout; returns what its files hold."""
    header = "id,file_name,file_index,img_type,time_utc,minute_offsets,pct_missing,llcrnrlat,llcrnrlon,size_x,size_y"
    lines = [header]
    for row in rows:
        offsets = ":".join(str(offset) for offset in row.offsets)
        for kind in ("vil", "vis"):
            file = row.file.replace("vil", kind).replace("VIL", kind.upper())
            lines.append(
                f"{row.id},{file},{row.index},{kind},{row.time},{offsets},{row.missing},29.8629,-100.8555,384,384"
            )
    root.mkdir(parents=True, exist_ok=True)
    (root / "CATALOG.csv").write_text("\n".join(lines) + "\n")
    content = {}
    for number, name in enumerate(sorted({row.file for row in rows})):
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        inside = [row for row in rows if row.file == name]
        content[name] = storms_of(number, len(inside), side, frames)
        with h5py.File(path, "w") as file:
            file["vil"] = content[name]
            if ids:
                file["id"] = np.array([row.id for row in sorted(inside, key=lambda row: row.index)], dtype="S7")
    return content


def change(root: Path, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    with h5py.File(root / "data" / name, "r+") as file:
        codes = edit(np.array(file["vil"]))
        del file["vil"]
        file["vil"] = codes


def test_events_come_out_as_sevir_lr_in_the_order_of_ids(tmp_path: Path) -> None:
    content = write_archive(tmp_path)
    events = list(read_events(tmp_path, SevirCut(patch=8)))
    names = ["R5", "S20", "S3"]
    assert [event.id for event in events] == [f"{name}-{begin:02d}" for name in names for begin in (0, 6, 12)]
    assert [event.split for event in events] == ["test"] * 3 + ["train"] * 6
    codes = np.moveaxis(content[EARLY][0], -1, 0)  # S20
    for event, begin in zip(events[3:6], (0, 6, 12), strict=True):
        expected = reduce_codes(codes, 3, 2)[begin : begin + 13]
        assert event.values.dtype == np.float32
        assert np.array_equal(event.values, expected)
        assert event.times[0] == np.datetime64("2018-07-04T20:02:00") + np.timedelta64(-118 + 10 * begin, "m")
        assert (np.diff(event.times) == np.timedelta64(600, "s")).all()


def test_whole_fields_keep_their_frames(tmp_path: Path) -> None:
    content = write_archive(tmp_path)
    archive = SevirArchive.open(tmp_path, SevirCut(patch=SIDE, frames=25))
    assert archive.time_step_seconds == 300.0
    assert archive.pixel_size == (16000.0, 16000.0)
    events = list(archive.events())
    assert [event.id for event in events[:3]] == ["R5-00", "R5-12", "R5-24"]
    assert np.array_equal(events[1].values, np.moveaxis(content[LATE][0], -1, 0)[12:37])


def test_sevir_lr_itself_is_read(tmp_path: Path) -> None:
    content = write_archive(tmp_path, frames=25, ids=False)  # its catalogue is SEVIR's, of 49 frames, and it has no ids
    archive = SevirArchive.open(tmp_path, SevirCut(patch=SIDE))
    assert archive.time_step_seconds == 600.0
    event = next(archive.events())
    assert np.array_equal(event.values, np.moveaxis(content[LATE][0], -1, 0)[:13])
    assert (np.diff(event.times) == np.timedelta64(600, "s")).all()


def test_options_choose_events_and_windows(tmp_path: Path) -> None:
    write_archive(tmp_path)
    cut = SevirCut(patch=8, frames=5, stride=20, eval_stride=11, start="2018-08-01T10:00", split="val")
    assert [event.id for event in read_events(tmp_path, cut)] == ["R5-00", "R5-11", "S3-00", "S3-11"]
    until = replace(cut, start=None, end="2018-07-31", split=None)
    assert [event.id for event in read_events(tmp_path, until)] == ["S20-00", "S20-20"]


def test_missing_pixels_are_masked_and_too_many_drop_a_window(tmp_path: Path) -> None:
    write_archive(tmp_path)

    def hide(codes: np.ndarray) -> np.ndarray:
        codes[0, 0, 0, 0] = 255  # S20, frame 0: one pixel of 8 x 8 after reduction
        codes[0, :12, :, 46] = 255  # S20, frame 23 of 25: half of it
        return codes

    change(tmp_path, EARLY, hide)
    events = {event.id: event for event in read_events(tmp_path, SevirCut(patch=8))}
    assert {name for name in events if name.startswith("S20")} == {"S20-00", "S20-06"}
    assert np.isnan(events["S20-00"].values).sum() == 1
    assert np.isnan(events["S20-00"].values[0, 0, 0])
    assert not np.isnan(events["S20-06"].values).any()


def test_corner_is_that_of_the_stated_projection(tmp_path: Path) -> None:
    write_archive(tmp_path)
    event = next(read_events(tmp_path, SevirCut(patch=8)))
    there = pyproj.Proj("+proj=laea +lat_0=38 +lon_0=-98 +units=m +R=6370997.0")
    assert (event.x0, event.y0) == pytest.approx(there(-100.8555, 29.8629), abs=1e-3)


def refused(root: Path, cut: SevirCut | None = None) -> str:
    with pytest.raises(UserError) as error:
        list(read_events(root, cut or SevirCut(patch=8)))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_absent_file_is_named_or_left_out_on_request(tmp_path: Path) -> None:
    write_archive(tmp_path)
    (tmp_path / "data" / LATE).unlink()
    assert Path(LATE).name in refused(tmp_path)
    left = read_events(tmp_path, SevirCut(patch=8, skip_gaps=True))
    assert {event.id[:3] for event in left} == {"S20", "S3-"}


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write_archive(tmp_path)
    path = tmp_path / "data" / LATE
    path.write_bytes(path.read_bytes()[:-2000])
    assert Path(LATE).name in refused(tmp_path)
    path.write_bytes(b"no HDF5 at all")
    assert Path(LATE).name in refused(tmp_path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda codes: np.moveaxis(codes, -1, 1),  # N, T, H, W
        lambda codes: codes[..., :48],
        lambda codes: codes[:, :20],
        lambda codes: codes[0],
        lambda codes: codes.astype(np.int16),
        lambda codes: codes[:, :12, :12],  # sound, but not as the other file
    ],
)
def test_a_file_of_the_wrong_shape_is_named(tmp_path: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    write_archive(tmp_path)
    change(tmp_path, LATE, edit)
    assert Path(LATE).name in refused(tmp_path)


def test_a_file_without_vil_is_named(tmp_path: Path) -> None:
    write_archive(tmp_path)
    with h5py.File(tmp_path / "data" / LATE, "r+") as file:
        file.move("vil", "ir107")
    assert "dataset vil" in refused(tmp_path)


def test_a_catalogue_that_does_not_fit_its_files_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "beyond", [replace(ROWS[0], index=4)])
    assert "S20 at 4" in refused(tmp_path / "beyond")
    write_archive(tmp_path / "swapped")
    text = (tmp_path / "swapped" / "CATALOG.csv").read_text()
    (tmp_path / "swapped" / "CATALOG.csv").write_text(text.replace("S20,", "S77,"))
    assert "expected event S77" in refused(tmp_path / "swapped")
    write_archive(tmp_path / "offsets", [replace(ROWS[0], offsets=OFFSETS[:20])])
    assert "minute_offsets" in refused(tmp_path / "offsets")


def test_gaps_and_masked_frames_are_refused_or_left_out(tmp_path: Path) -> None:
    gap = (*OFFSETS[:30], *(offset + 5 for offset in OFFSETS[30:]))
    write_archive(tmp_path, [replace(ROWS[0], offsets=gap), *ROWS[1:]])
    assert "S20" in refused(tmp_path)
    skip = SevirCut(patch=8, skip_gaps=True)
    assert {event.id[:2] for event in read_events(tmp_path, skip)} == {"R5", "S3"}

    def hide(codes: np.ndarray) -> np.ndarray:
        codes[0, :, :, 4] = 255
        return codes

    write_archive(tmp_path)
    change(tmp_path, LATE, hide)
    assert "missing pixels in frame 2" in refused(tmp_path)
    assert {event.id[:2] for event in read_events(tmp_path, skip)} == {"S2", "S3"}


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    assert "not there" in refused(tmp_path / "nowhere")
    assert "CATALOG.csv" in refused(tmp_path)
    write_archive(tmp_path, [replace(ROWS[0], missing="1.5")])
    assert "got none" in refused(tmp_path)


@pytest.mark.parametrize(
    ("cut", "word"),
    [
        (SevirCut(patch=7), "--patch"),
        (SevirCut(patch=8, frames=26), "--frames"),
        (SevirCut(patch=8, start="soon"), "--start"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, cut: SevirCut, word: str) -> None:
    write_archive(tmp_path)
    assert word in refused(tmp_path, cut)


@pytest.mark.parametrize("name", ["patch", "frames", "stride", "eval_stride", "frame_step"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--{name}"):
        replace(SevirCut(), **{name: 0})


def test_command_makes_a_store_of_vil(tmp_path: Path, run_cli: Cli) -> None:
    content = write_archive(tmp_path / "sevir", side=48)
    out = tmp_path / "sevir.zarr"
    done = run_cli(
        "data_tools.ingest", str(tmp_path / "sevir"), "--format", "sevir", "--out", str(out), "--patch", "16"
    )
    assert done.returncode == 0, done.stderr
    store = EventStore.open(out, "vil")
    assert store.shape == (9, 13, 16, 16)
    assert store.time_step_seconds == 600.0
    assert [store.event_id(index) for index in store.indices("test")] == ["R5-00", "R5-06", "R5-12"]
    assert store.crs["grid_mapping_name"] == "lambert_azimuthal_equal_area"
    expected = reduce_codes(np.moveaxis(content[LATE][0], -1, 0), 3, 2)
    assert np.array_equal(store.read(1), expected[6:19])


def test_command_on_real_vil(tmp_path: Path, run_cli: Cli, shared: Path) -> None:
    with np.load(shared / "sevir" / "sevir_vil_demo_2x25x128x128.npz") as archive:
        real = archive["vil"]
    rows = [Row(f"S{index}", LATE, index, "2019-07-09 01:30:00") for index in range(len(real))]
    write_archive(tmp_path / "sevirlr", rows, frames=25)
    change(tmp_path / "sevirlr", LATE, lambda _: np.moveaxis(real, 1, -1))
    out = tmp_path / "real.zarr"
    done = run_cli("data_tools.ingest", str(tmp_path / "sevirlr"), "--format", "sevir", "--out", str(out))
    assert done.returncode == 0, done.stderr
    store = EventStore.open(out)
    assert store.shape == (6, 13, 128, 128)
    assert np.array_equal(store.read(4), real[1, 6:19])


@pytest.mark.parametrize("harm", ["absent", "columns", "truncated"])
def test_command_refuses_a_broken_archive_in_one_line(tmp_path: Path, run_cli: Cli, harm: str) -> None:
    root = tmp_path / "sevir"
    write_archive(root)
    path, catalog = root / "data" / LATE, root / "CATALOG.csv"
    if harm == "absent":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    else:
        catalog.write_text(catalog.read_text().replace("file_index", "position").replace("time_utc", "when"))
    out = tmp_path / "out.zarr"
    done = run_cli("data_tools.ingest", str(root), "--format", "sevir", "--out", str(out), "--patch", "8")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert ("file_index, time_utc" if harm == "columns" else path.name) in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["sevir"]
