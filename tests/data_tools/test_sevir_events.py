"""SEVIR read straight out of its files, against what the files hold."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_tools.cli import UserError
from data_tools.inspect import examine_path
from data_tools.sevir_events import SevirEvents

Archive = Callable[..., dict[str, np.ndarray]]


def brute_lr(codes: np.ndarray, mean: bool) -> np.ndarray:
    """Every second frame, 3 x 3 pixels in one, pixel by pixel."""
    small = np.empty((len(codes[::2]), codes.shape[1] // 3, codes.shape[2] // 3), dtype=np.uint8)
    for t, i, j in np.ndindex(*small.shape):
        block = codes[2 * t, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
        small[t, i, j] = round(float(block.mean())) if mean and block.max() < 255 else block.max()
    return small


def test_events_come_in_the_order_of_ids(tmp_path: Path, sevir_archive: Archive) -> None:
    content = sevir_archive(tmp_path)
    events = SevirEvents.open(tmp_path)
    assert events.ids == tuple(sorted(content))
    assert (len(events), events.shape, events.time_step_seconds) == (13, (13, 49, 24, 24), 300.0)
    assert events.indices("train") == [i for i, name in enumerate(events.ids) if int(name[1:]) < 7]
    assert events.indices("val") == []
    assert np.isfinite(events.origins).all()
    for index, name in enumerate(events.ids):
        codes = events.read_codes(index)
        assert codes.dtype == np.uint8
        np.testing.assert_array_equal(codes, content[name])
    first = events.ids.index("R0")
    assert events.times(first)[0] == np.datetime64("2018-07-01T10:04:00")
    assert (np.diff(events.times(first)) == np.timedelta64(300, "s")).all()
    last = events.ids.index("R12")
    assert np.array_equal(np.isnan(events.read(last)), content["R12"] == 255)
    np.testing.assert_array_equal(np.nan_to_num(events.read(last), nan=255), content["R12"])


@pytest.mark.parametrize(
    "frames", [slice(12, 25), slice(36, 49), slice(5, 6), slice(3, 40, 4), slice(-3, None), slice(9, 9)]
)
@pytest.mark.parametrize("pool", ["max", "mean", None])
def test_frames_are_those_of_the_whole(tmp_path: Path, sevir_archive: Archive, frames: slice, pool) -> None:
    content = sevir_archive(tmp_path, events=2, side=12)
    events = SevirEvents.open(tmp_path, lr=pool is not None, pool=pool or "max")
    for index, name in enumerate(events.ids):
        whole = content[name] if pool is None else brute_lr(content[name], pool == "mean")
        np.testing.assert_array_equal(events.read_codes(index, frames), whole[frames])
    if pool is not None:
        assert (events.shape, events.time_step_seconds) == ((2, 25, 4, 4), 600.0)
        assert (np.diff(events.valid_times) == np.timedelta64(600, "s")).all()
    with pytest.raises(ValueError, match="in their order"):
        events.read_codes(0, slice(5, 1, -1))


def test_only_sevir_is_reduced(tmp_path: Path, sevir_archive: Archive) -> None:
    sevir_archive(tmp_path, events=2, frames=25)
    assert SevirEvents.open(tmp_path).time_step_seconds == 600.0
    with pytest.raises(UserError, match="leave --lr out"):
        SevirEvents.open(tmp_path, lr=True)
    with pytest.raises(UserError, match="only reduced events"):
        SevirEvents.open(tmp_path, pool="mean")


def read_and_tell(events: SevirEvents, pipe) -> None:
    pipe.send((os.getpid(), events.read_codes(1).sum()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_process_opens_files_of_its_own(tmp_path: Path, sevir_archive: Archive) -> None:
    content = sevir_archive(tmp_path, events=3, side=6)
    events = SevirEvents.open(tmp_path)
    events.read_codes(1)
    ours = next(iter(events.files._files.values()))
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=read_and_tell, args=(events, there))
    process.start()
    pid, total = here.recv()
    process.join()
    assert (pid != os.getpid(), total) == (True, content[events.ids[1]].sum())
    assert bool(ours)  # still open here
    np.testing.assert_array_equal(events.read_codes(1), content[events.ids[1]])


def test_it_travels_without_its_files(tmp_path: Path, sevir_archive: Archive) -> None:
    content = sevir_archive(tmp_path, events=3, side=6)
    events = SevirEvents.open(tmp_path)
    events.read_codes(0)
    again = pickle.loads(pickle.dumps(events))
    assert again.files._files == {}
    np.testing.assert_array_equal(again.read_codes(-1), content[events.ids[-1]])
    part = events.part(1, 5)
    assert (part.ids, part.shape) == (events.ids[1:], (2, 49, 6, 6))
    np.testing.assert_array_equal(part.read_codes(0), content[events.ids[1]])
    np.testing.assert_array_equal(part.origins, events.origins[1:])


def test_doubled_ids_and_absent_files_are_told(tmp_path: Path, sevir_archive: Archive) -> None:
    sevir_archive(tmp_path, events=7, side=6)
    catalog = tmp_path / "CATALOG.csv"
    lines = catalog.read_text().splitlines()
    catalog.write_text("\n".join([*lines, lines[1].replace(",0,vil", ",3,vil")]))
    (tmp_path / "data" / "vil" / "2019" / "SEVIR_VIL_STORMEVENTS_2019_0701_1231.h5").unlink()
    with pytest.raises(UserError, match=r"2019_0701_1231.h5, which CATALOG.csv names, got no such file.*skip_lost"):
        SevirEvents.open(tmp_path)
    events = SevirEvents.open(tmp_path, skip_lost=True)
    assert events.ids == ("R2", "S1", "S3")
    assert events.left_out == (("R0",), ("vil/2019/SEVIR_VIL_STORMEVENTS_2019_0701_1231.h5",))
    assert SevirEvents.open(tmp_path, start="2018-07-03", end="2018-07-30").ids == ("R2", "S3")


def replace_vil(folder: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in (folder / "data").rglob("*.h5"):
        with h5py.File(path, "r+") as file:
            codes = edit(file["vil"][...])
            del file["vil"]
            file["vil"] = codes


@pytest.mark.parametrize(
    ("edit", "got"),
    [
        (lambda codes: np.moveaxis(codes, -1, 1), r"\(2, 49, 6, 6\) uint8"),
        (lambda codes: codes.astype(np.int16), r"\(2, 6, 6, 49\) int16"),
        (lambda codes: codes[..., :48], r"\(2, 6, 6, 48\) uint8"),
        (lambda codes: codes[0], r"\(6, 6, 49\) uint8"),
        (lambda codes: codes[:, :0, :0], r"\(2, 0, 0, 49\) uint8"),
    ],
)
def test_fields_of_another_form_are_refused(tmp_path: Path, sevir_archive: Archive, edit, got: str) -> None:
    sevir_archive(tmp_path, events=4, side=6)
    replace_vil(tmp_path, edit)
    with pytest.raises(UserError, match=f"got {got}"):
        SevirEvents.open(tmp_path)


@pytest.mark.parametrize(
    "ids", [np.array([b"R0"]), np.array([1, 2]), np.array(b"R0"), np.zeros((2, 1), "S3"), np.zeros(2, [("a", "i4")])]
)
def test_ids_of_another_form_are_refused(tmp_path: Path, sevir_archive: Archive, ids: np.ndarray) -> None:
    sevir_archive(tmp_path, events=4, side=6)
    (path,) = (tmp_path / "data").rglob("*2018*.h5")
    with h5py.File(path, "r+") as file:
        del file["id"]
        file["id"] = ids
    with pytest.raises(UserError, match=r"expected id \(2,\) of text in .*2018.*, as many as events, got"):
        SevirEvents.open(tmp_path)
    (problem,) = examine_path(path).problems
    assert "expected id (2,) of text" in problem


def test_ids_that_are_no_text_are_another_event(tmp_path: Path, sevir_archive: Archive) -> None:
    sevir_archive(tmp_path, events=4, side=6)
    (path,) = (tmp_path / "data").rglob("*2018*.h5")
    with h5py.File(path, "r+") as file:
        file["id"][0] = b"\xff\xfe"
    events = SevirEvents.open(tmp_path)
    with pytest.raises(UserError, match=r"expected event R0 at 0 of .*: wrong catalogue"):
        events.read_codes(events.ids.index("R0"))


def test_a_file_that_changes_later_is_told(tmp_path: Path, sevir_archive: Archive) -> None:
    sevir_archive(tmp_path, events=4, side=6)
    events = SevirEvents.open(tmp_path)
    (path,) = (tmp_path / "data").rglob("*2018*.h5")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="damaged or foreign"):
        events.read_codes(events.ids.index("R0"))
    path.unlink()
    with pytest.raises(UserError, match="got no such file: download it"):
        events.read_codes(events.ids.index("S1"))
    assert events.read_codes(events.ids.index("S3")).shape == (49, 6, 6)
