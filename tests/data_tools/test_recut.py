"""An event store cut anew: joined and split in time whatever it was before, provenance kept, refusals in words."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from data_tools import writing
from data_tools.cli import UserError
from data_tools.ingest import Options, main
from data_tools.layout import create_values
from data_tools.quantities import RAINFALL_RATE, VIL, Quantity
from data_tools.recut import StoredArchive
from data_tools.store import Event, EventStore, check_store, write_store

Done = subprocess.CompletedProcess[str]
ROWS, COLUMNS, LENGTH = 40, 52, 6
START = np.datetime64("2012-06-30T23:00:00", "s")
STEP = np.timedelta64(300, "s")


def rates(frames: int, seed: int = 4) -> np.ndarray:
    """(T, H, W) mm/h, wet everywhere, in the hundredths that a store keeps."""
    return (np.random.default_rng(seed).integers(60, 4000, (frames, ROWS, COLUMNS)) / 100).astype(np.float32)


def own_store(
    path: Path,
    fields: np.ndarray,
    starts: list[int],
    quantity: Quantity = RAINFALL_RATE,
    *,
    names: list[str] | None = None,
    sources: tuple[str, ...] = ("own",),
    seconds: int = 300,
) -> EventStore:
    """A store of events of `LENGTH` frames of `fields`, each from its start on, as a user with arrays writes one."""
    step = np.timedelta64(seconds, "s")
    events = [
        Event(
            names[number] if names else f"day/{start}", START + (start + np.arange(LENGTH)) * step,
            fields[start : start + LENGTH], "train", sources[number % len(sources)], 3000.0, 90_000.0,
        )
        for number, start in enumerate(starts)
    ]  # fmt: skip
    write_store(
        path,
        events,
        quantity=quantity,
        time_step_seconds=seconds,
        crs={"grid_mapping_name": "latitude_longitude", "earth_radius": 6371000.0},
        attrs={"source": "radar of the university", "licence": "ask us"},
        pixel_size=(500.0, -250.0),
    )
    return EventStore.open(path)


def recut(src: Path, out: Path, **more: object) -> EventStore:
    main(Options(src=str(src), out=str(out), format="store", **{"patch": 16, "frames": 4, **more}))  # type: ignore[arg-type]
    assert check_store(out) == []
    return EventStore.open(out)


def test_events_that_follow_each_other_are_one_run(tmp_path: Path) -> None:
    fields = rates(30)
    fields[2, :3, 5] = np.nan
    own_store(tmp_path / "own.zarr", fields, [6, 0, 12, 18, 24])  # in any order
    store = recut(tmp_path / "own.zarr", tmp_path / "cut.zarr")
    # 30 frames: train 0-12, val 13-17, nobody 18-20, test 21-29; windows of 4, six tiles of 16 x 16
    assert [len(store.indices(split)) for split in ("train", "val", "test")] == [18, 6, 12]
    begins = {split: sorted({int((store.times(i)[0] - START) / STEP) for i in store.indices(split)})
              for split in ("train", "val", "test")}  # fmt: skip
    assert begins == {"train": [0, 4, 8], "val": [13], "test": [21, 25]}
    for index in range(len(store)):
        begin = int((store.times(index)[0] - START) / STEP)
        row, column = map(int, re.findall(r"\d+", store.ids[index])[-2:])
        window = fields[begin : begin + 4, row : row + 16, column : column + 16]
        np.testing.assert_array_equal(store.read(index), window)
        assert tuple(store.origins[index]) == (3000.0 + 500.0 * column, 90_000.0 - 250.0 * row)
    assert np.isnan(store.read(store.ids.index("own-20120630T2300-y0-x0"))).sum() == 3
    assert store.attrs["source"] == "radar of the university"
    assert store.attrs["licence"] == "ask us"
    assert store.crs["earth_radius"] == 6371000.0
    assert set(store.sources) == {"own"}


def test_gaps_are_those_of_an_archive(tmp_path: Path) -> None:
    own_store(tmp_path / "own.zarr", rates(30), [0, 6, 13, 19])
    with pytest.raises(UserError, match="expected a frame every 300 s, got 600 s"):
        recut(tmp_path / "own.zarr", tmp_path / "cut.zarr")
    store = recut(tmp_path / "own.zarr", tmp_path / "cut.zarr", gaps="split", split="test", eval_stride=1)
    begins = {int((store.times(i)[0] - START) / STEP) for i in range(len(store))}
    assert begins == {*range(9), *range(13, 22)}
    store = recut(
        tmp_path / "own.zarr", tmp_path / "later.zarr", split="val", start="2012-07-01T00:05", end="2012-07-01T00:30"
    )
    assert {str(store.times(i)[0]) for i in range(len(store))} == {"2012-07-01T00:05:00"}


def test_storms_of_another_size_become_windows(
    tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess]
) -> None:
    large, out = str(tmp_path / "large.zarr"), str(tmp_path / "cut.zarr")
    sizes = ("--events", "6", "--seed", "5", "--patch", "40", "--frames", "8")
    assert run_cli("data_tools.storms", *sizes, "--out", large).returncode == 0
    words = ("--format", "store", "--patch", "16", "--frames", "4", "--wet_fraction", "0", "--out", out)
    done = run_cli("data_tools.ingest", large, *words)
    assert done.returncode == 0, done.stderr
    whole, store = EventStore.open(large), EventStore.open(out)
    assert set(store.splits) == {"train", "val", "test"}
    times = {
        split: {time for i in store.indices(split) for time in store.times(i)} for split in ("train", "val", "test")
    }
    assert not times["train"] & (times["val"] | times["test"])
    day = next(i for i in range(len(whole)) if str(whole.times(i)[0])[:10] == str(store.times(0)[0])[:10])
    row, column = map(int, re.findall(r"\d+", store.ids[0])[-2:])
    np.testing.assert_array_equal(store.read(0), whole.read(day)[:4, row : row + 16, column : column + 16])


def test_the_archive_tells_of_its_frames(tmp_path: Path) -> None:
    fields = rates(18)
    archive = StoredArchive.open(own_store(tmp_path / "own.zarr", fields, [6, 0, 12]).path)
    stamps = archive.stamps()
    assert [stamp.time for stamp in stamps] == [archive.time_of(stamp.path) for stamp in stamps]
    assert archive.time_of(tmp_path / "foreign") is None
    chosen = [stamps[k].path for k in (3, 4, 9, 5, 6, 7, 17)]
    codes = np.stack(list(archive.read(chosen)))
    np.testing.assert_array_equal(codes, np.rint(fields[[3, 4, 9, 5, 6, 7, 17]] * 100).astype(np.uint16))


def test_ids_that_are_one_path_are_two_events(tmp_path: Path) -> None:
    """Ids are free text: `a` and `./a` name one place on disk, and `/a` one outside of the store."""
    fields = rates(24)
    store = own_store(tmp_path / "own.zarr", fields, [0, 6, 12, 18], names=["a", "./a", "/a", ".."])
    archive = StoredArchive.open(store.path)
    stamps = archive.stamps()
    assert len({stamp.path for stamp in stamps}) == len(stamps) == 24
    codes = np.stack(list(archive.read([stamp.path for stamp in stamps])))
    np.testing.assert_array_equal(codes, np.rint(fields * 100).astype(np.uint16))


def test_windows_that_start_in_one_minute_have_names_of_their_own(tmp_path: Path) -> None:
    own_store(tmp_path / "own.zarr", rates(12), [0, 6], seconds=20)
    store = recut(tmp_path / "own.zarr", tmp_path / "cut.zarr", split="train", stride=1)
    assert len(store) == 9 * 6
    assert {name.split("-")[1] for name in store.ids} >= {"20120630T2300", "20120630T230020", "20120630T230040"}


def test_frames_of_a_long_event_are_read_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the length of an event."""
    monkeypatch.setattr(
        writing, "create_values", lambda group, quantity, shape, step, _: create_values(group, quantity, shape, step, 4)
    )
    store = own_store(tmp_path / "own.zarr", rates(6), [0])
    assert store.fields.chunks[1] == 4
    asked: list[int] = []
    read = EventStore.read_codes

    def counted(self: EventStore, index: int, frames: slice = slice(None)) -> np.ndarray:
        asked.append(frames.stop - frames.start)
        return read(self, index, frames)

    monkeypatch.setattr(EventStore, "read_codes", counted)
    archive = StoredArchive.open(store.path)
    list(archive.read([stamp.path for stamp in archive.stamps()]))
    assert asked == [4, 2]


def test_no_frame_is_left_out_unasked(tmp_path: Path) -> None:
    """A store that tells of a longer time step than its frames have is not thinned to it."""
    place = own_store(tmp_path / "own.zarr", rates(12), [0, 6]).path
    zarr.open_group(str(place), mode="r+").attrs["time_step_seconds"] = 900.0
    store = recut(place, tmp_path / "cut.zarr", split="train")
    assert store.time_step_seconds == 300.0
    assert len(store) == 3 * 6
    assert recut(place, tmp_path / "thin.zarr", split="train", frame_step=3).time_step_seconds == 900.0


def test_a_store_is_not_cut_into_itself(tmp_path: Path) -> None:
    place = own_store(tmp_path / "own.zarr", rates(12), [0, 6]).path
    for out in (place, tmp_path / "x" / ".." / "own.zarr", place / "cut.zarr"):
        with pytest.raises(UserError, match="expected --out outside the store that is read"):
            recut(place, out, overwrite=True)
    assert len(EventStore.open(place)) == 2


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("twice", "expected one frame a time"),
        ("windows", "expected events of one place"),
        ("vil", "expected a store of rainfall_rate, got vil"),
        ("none", "which is not there"),
        ("patch", "lower --patch"),
        ("sources", "expected events of one source"),
        ("one frame", "expected an archive of several frames, got one, of 2012-06-30T23:00:00"),
        ("missing", "pass --gaps split"),
        ("no size", "expected pixels of a size, got 0.0 x -250.0"),
    ],
)
def test_what_cannot_be_cut_is_told_in_words(case: str, words: str, tmp_path: Path) -> None:
    path, more = tmp_path / "own.zarr", {}
    if case == "twice":
        own_store(path, rates(12), [0, 5])
    elif case == "windows":
        own_store(tmp_path / "whole.zarr", rates(12), [0, 6])
        recut(tmp_path / "whole.zarr", path, split="train")
    elif case == "vil":
        own_store(path, rates(12), [0, 6], VIL)
    elif case == "sources":
        own_store(path, rates(12), [0, 6], sources=("knmi", "fmi"))
    elif case == "one frame":
        own_store(path, rates(6), [0])
        more = {"end": "2012-06-30T23:00"}
    elif case == "no size":
        zarr.open_group(str(own_store(path, rates(12), [0, 6]).path), mode="r+")["x"][...] = 0.0  # type: ignore[index]
    elif case == "missing":
        own_store(path, np.full((12, ROWS, COLUMNS), np.nan, np.float32), [0, 6])
    elif case == "patch":
        own_store(path, rates(12), [0, 6])
        more = {"patch": 64}
    expected = "expected an event store at" if case == "none" else words
    with pytest.raises(UserError, match=re.escape(expected)) as caught:
        recut(path, tmp_path / "cut.zarr", **more)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cut.zarr").exists()
