"""Windows left on disk: indexed, drawn and hashed exactly as those in memory, and read no further than asked."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.nowcast.data import draw_frames, load_windows
from apps.nowcast.stored_frames import Place, StoredFrames
from data_tools.cli import UserError
from data_tools.quantities import VIL
from data_tools.schema import unpack
from data_tools.split_files import Part, Window
from data_tools.store import EventStore
from data_tools.table import EventTable

T, H, W = 11, 5, 7
CODES = np.random.default_rng(5).integers(0, 256, (3, T, H, W)).astype(np.uint8)
IN_MEMORY = np.random.default_rng(6).random((2, 6, H, W)).astype(np.float32)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Counted(EventTable):
    """Events of `CODES` that note which frames are read."""

    reads: list[tuple[int, int, int]]

    def read_codes(self, index: int, frames: slice = slice(None)) -> np.ndarray:
        self.reads.append((index, frames.start, frames.stop))
        return CODES[index, frames]


def make_table() -> Counted:
    names = tuple("abc")
    times = np.zeros((3, T), "datetime64[s]")
    values = (Path("made"), VIL, 600.0, CODES.shape, {}, {}, names, names, ("train",) * 3, times, np.zeros((3, 2)), [])
    return Counted(*values)


def stored() -> tuple[StoredFrames, np.ndarray]:
    """Five windows of 6 frames, two of them in memory, and the same as an array."""
    table = make_table()
    near, other = Place(IN_MEMORY, 1, 0), Place(IN_MEMORY, 0, 0)
    places = [Place(table, 2, 5), near, Place(table, 0, 0), Place(table, 0, 3), other]
    values = unpack(CODES, VIL)
    whole = np.stack([values[2, 5:11], IN_MEMORY[1], values[0, 0:6], values[0, 3:9], IN_MEMORY[0]])
    return StoredFrames(places, 6), whole


STORED, WHOLE = stored()


def index(size: int, steps: tuple[int, ...] = (1, 2, -1, -3)) -> st.SearchStrategy:
    bound = st.none() | st.integers(-size - 2, size + 2)
    return st.integers(-size, size - 1) | st.builds(slice, bound, bound, st.sampled_from((None, *steps)))


@settings(max_examples=300, deadline=None)
@given(st.tuples(index(5), index(6), index(H), index(W)), st.integers(1, 4))
def test_they_are_indexed_like_an_array(key: tuple, length: int) -> None:
    np.testing.assert_array_equal(STORED[key[:length]], WHOLE[key[:length]])
    assert STORED[key[:length]].dtype == np.float32


def test_they_have_an_arrays_size() -> None:
    assert STORED.shape == WHOLE.shape
    assert STORED.nbytes == WHOLE.nbytes
    assert len(STORED) == 5
    np.testing.assert_array_equal(STORED.load(), WHOLE)
    np.testing.assert_array_equal(list(STORED), WHOLE)
    np.testing.assert_array_equal(STORED[np.int64(3)], WHOLE[3])
    for bad in (5, -6, (0, 6), (0, 0, H), (0, 0, 0, 0, 0)):
        with pytest.raises(IndexError):
            STORED[bad]


def test_only_the_frames_asked_for_are_read() -> None:
    table = make_table()
    frames = StoredFrames([Place(table, 2, 5), Place(table, 1, 1)], 6)
    frames[0, 2]
    frames[1, 3:5, 1:2]
    frames[1, -1]
    frames[1, 4:4]
    frames[0, 1::3]
    assert table.reads == [(2, 7, 8), (1, 4, 6), (1, 6, 7), (2, 6, 10)]


@pytest.mark.parametrize("quantity", ["vil", "rainfall_rate"])
def test_nothing_depends_on_where_windows_are(
    tmp_path: Path, store_factory: Callable[..., Path], quantity: str
) -> None:
    path = store_factory(tmp_path / "store.zarr", {"train": 4}, quantity)
    near = load_windows(str(path), "train", 6)
    far = load_windows(str(path), "train", 6, in_memory=0)
    assert isinstance(near.frames, np.ndarray)
    assert isinstance(far.frames, StoredFrames)
    np.testing.assert_array_equal(far.frames.load(), near.frames)
    assert far.fingerprint == near.fingerprint
    assert (far.ids, far.times, far.sources) == (near.ids, near.times, near.sources)
    for crop in (None, 9):
        assert torch.equal(draw_frames(far, 12, (3, 1), crop), draw_frames(near, 12, (3, 1), crop))


def test_sources_in_memory_and_on_disk_mix(tmp_path: Path, store_factory: Callable[..., Path]) -> None:
    path = store_factory(tmp_path / "store.zarr", {"train": 2}, patch=128)
    near = load_windows(f"storms,{path}", "train", 6, events=2)
    far = load_windows(f"storms,{path}", "train", 6, events=2, in_memory=0)
    assert isinstance(far.frames, StoredFrames)
    np.testing.assert_array_equal(far.frames.load(), near.frames)
    assert far.fingerprint == near.fingerprint


def test_memory_does_not_grow_with_the_events(tmp_path: Path, store_factory: Callable[..., Path]) -> None:
    def peak(events: int) -> int:
        path = store_factory(tmp_path / f"{events}.zarr", {"train": events}, patch=64)
        windows = load_windows(str(path), "train", 13, in_memory=0)
        tracemalloc.start()
        draw_frames(windows, 64, (0,), 16)
        assert len(windows.fingerprint) == 16
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(2)  # what is imported at first use
    assert peak(40) < 1.1 * peak(8)


def test_listed_windows_are_taken_as_listed(tmp_path: Path, store_factory: Callable[..., Path]) -> None:
    """Overlapping windows in the list's own order, out of all splits of the store."""
    path = store_factory(tmp_path / "store.zarr", {"train": 2, "test": 1})
    part = Part(13, 6, (Window("train-1", 3), Window("test-0", 0), Window("train-1", 0)))
    windows = load_windows(str(path), "val", 6, listed=part)
    assert windows.ids == ("train-1+3", "test-0+0", "train-1+0")
    store = EventStore.open(path)
    np.testing.assert_array_equal(windows.frames[0], store.read(1, slice(3, 9)))
    np.testing.assert_array_equal(windows.frames[1], store.read(2, slice(0, 6)))
    assert windows.times[0] == str(store.times(1)[3])
    lacking = Part(13, 6, (*part.windows, Window("train-7", 0)))
    with pytest.raises(UserError, match="4 listed windows"):
        load_windows(str(path), "val", 6, listed=lacking)
    for other, message in (
        (Part(13, 5, part.windows), "of 6 frames"),
        (Part(25, 6, part.windows), "events of 25 frames"),
        (Part(13, 6, (Window("x", 0),)), "another archive"),
    ):
        with pytest.raises(UserError, match=message):
            load_windows(str(path), "val", 6, listed=other)
    with pytest.raises(UserError, match="nobody's list"):
        load_windows("storms", "val", 6, listed=part)


def test_sevirs_own_files_are_a_source(tmp_path: Path) -> None:
    """A SEVIR-LR folder is read without conversion."""
    codes = np.random.default_rng(2).integers(0, 255, (3, 128, 128, 25)).astype(np.uint8)
    (tmp_path / "data/vil/2019").mkdir(parents=True)
    with h5py.File(tmp_path / "data/vil/2019/FILE.h5", "w") as file:
        file["vil"] = codes
    rows = [f"S{k},vil/2019/FILE.h5,{k},vil,2019-0{5 + k}-15 00:00:00,0\n" for k in range(3)]
    (tmp_path / "CATALOG.csv").write_text("id,file_name,file_index,img_type,time_utc,pct_missing\n" + "".join(rows))
    windows = load_windows(str(tmp_path), "test", 12, in_memory=0)
    assert windows.ids == ("S1+0", "S1+12", "S2+0", "S2+12")
    np.testing.assert_array_equal(windows.frames[1], np.moveaxis(codes[1], -1, 0)[12:24])
    assert load_windows(str(tmp_path), "test", 12).fingerprint == windows.fingerprint
