from __future__ import annotations

import errno
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from data_tools import writing
from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE, VIL, Quantity
from data_tools.store import SPLITS, Event, EventStore, check_store, pack, require_free, unpack, write_store

FRAMES, HEIGHT, WIDTH = 3, 8, 6
CRS = {"grid_mapping_name": "polar_stereographic", "straight_vertical_longitude_from_pole": 25.0}
ATTRS = {"source": "made up", "licence": "none"}


def make_events(count: int, quantity: Quantity = RAINFALL_RATE) -> list[Event]:
    """Events of values that the store's code holds exactly, the first pixel of each missing."""
    generator = np.random.default_rng(3)
    begin = np.datetime64("2019-12-31T23:55:00", "s")
    events = []
    for index in range(count):
        codes = generator.integers(0, 250, size=(FRAMES, HEIGHT, WIDTH))
        values = (codes * quantity.storage[1]).astype(np.float32)
        values[0, 0, 0] = np.nan
        times = begin + (index + np.arange(FRAMES)) * np.timedelta64(300, "s")
        events.append(Event(f"storm-{index}", times, values, SPLITS[index % 3], f"s{index}", 10.5 * index, -index))
    return events


def write(path: Path, events: list[Event] | Iterator[Event], quantity: Quantity = RAINFALL_RATE, **more: bool) -> int:
    return write_store(path, events, quantity=quantity, time_step_seconds=300.0, crs=CRS, attrs=ATTRS, **more)


@pytest.mark.parametrize("quantity", [RAINFALL_RATE, VIL], ids=lambda quantity: quantity.name)
def test_what_is_written_is_read(tmp_path: Path, quantity: Quantity) -> None:
    events = make_events(5, quantity)
    assert write(tmp_path / "deep" / "a.zarr", events, quantity) == 5
    assert check_store(tmp_path / "deep" / "a.zarr") == []
    store = EventStore.open(tmp_path / "deep" / "a.zarr", quantity.name)
    assert (store.quantity, store.time_step_seconds, store.shape) == (quantity, 300.0, (5, FRAMES, HEIGHT, WIDTH))
    assert (store.crs, len(store)) == (CRS, 5)
    assert (store.attrs["source"], store.attrs["thresholds"]) == ("made up", list(quantity.thresholds))
    assert (store.indices("train"), store.indices("val"), store.indices("test")) == ([0, 3], [1, 4], [2])
    assert store.indices("all") == [0, 1, 2, 3, 4]
    for index, event in enumerate(events):
        assert store.event_id(index) == event.id
        assert store.source(index) == event.source
        assert tuple(store.origins[index]) == (event.x0, event.y0)
        np.testing.assert_array_equal(store.times(index), event.times)
        read = store.read(index)
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, event.values, rtol=1e-6)
        np.testing.assert_array_equal(store.read(index, slice(1, 3)), read[1:3])
    with pytest.raises(UserError, match="expected a split"):
        store.indices("training")


@given(st.lists(st.floats(0.0, 655.34) | st.just(float("nan")), min_size=1, max_size=9))
def test_packing_is_within_half_a_step(values: list[float]) -> None:
    physical = np.array(values, dtype=np.float32)
    again = unpack(pack(physical, RAINFALL_RATE), RAINFALL_RATE)
    np.testing.assert_array_equal(np.isnan(again), np.isnan(physical))
    np.testing.assert_allclose(again, physical, atol=0.005 + 1e-4)
    np.testing.assert_array_equal(pack(again, RAINFALL_RATE), pack(physical, RAINFALL_RATE))


def test_packing_clips_what_the_code_cannot_hold() -> None:
    codes = pack(np.array([-1.0, 1e6, np.nan, 254.4, 300.0]), RAINFALL_RATE)
    assert codes.tolist() == [0, 65534, 65535, 25440, 30000]
    assert pack(np.array([-1.0, 300.0, np.nan, 254.4]), VIL).tolist() == [0, 254, 255, 254]


@pytest.mark.parametrize("quantity", [RAINFALL_RATE, VIL], ids=lambda quantity: quantity.name)
def test_a_stored_threshold_reaches_the_threshold(quantity: Quantity) -> None:
    for threshold in quantity.thresholds:
        code = round(threshold / quantity.storage[1])
        for codes in (np.arange(code - 5, code + 6), pack(np.array([threshold]), quantity)):
            reached = unpack(codes.astype(quantity.storage[0]), quantity) >= np.float32(threshold)
            np.testing.assert_array_equal(reached, codes >= code)


def test_unpacked_values_are_the_nearest_float32() -> None:
    codes = np.arange(65535, dtype=np.uint16)
    np.testing.assert_array_equal(unpack(codes, RAINFALL_RATE), np.array([f"{c / 100:.2f}" for c in codes], np.float32))


def test_more_events_than_the_array_grows_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_GROWTH", 2)
    events = make_events(7)
    assert write(tmp_path / "a.zarr", iter(events)) == 7
    store = EventStore.open(tmp_path / "a.zarr")
    assert store.shape[0] == 7
    for index, event in enumerate(events):
        np.testing.assert_allclose(store.read(index), event.values, rtol=1e-6)


def test_xarray_opens_a_store_as_it_is(tmp_path: Path) -> None:
    events = make_events(4)
    write(tmp_path / "a.zarr", events)
    with xr.open_zarr(tmp_path / "a.zarr", consolidated=False) as data:
        rain = data["rainfall_rate"]
        assert rain.dims == ("event", "time", "y", "x")
        assert rain.attrs["units"] == "kg m-2 h-1"
        assert rain.attrs["grid_mapping"] == "crs"
        assert data["crs"].attrs == CRS
        np.testing.assert_allclose(rain.to_numpy(), np.stack([event.values for event in events]), rtol=1e-6)
        assert data["time"].dtype.kind == "M"
        np.testing.assert_array_equal(data["time"].to_numpy().astype("datetime64[s]")[1], events[1].times)
        assert data["event_id"].to_numpy().tolist() == [event.id for event in events]
        assert data["split"].attrs["flag_meanings"].split()[int(data["split"][2])] == "test"
        np.testing.assert_array_equal(data["x"], 500.0 + 1000.0 * np.arange(WIDTH))
        np.testing.assert_array_equal(data["y"], -500.0 - 1000.0 * np.arange(HEIGHT))
        np.testing.assert_array_equal(data["x_origin"], [event.x0 for event in events])


def test_a_store_can_be_sent_to_another_process(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", make_events(2))
    store = EventStore.open(tmp_path / "a.zarr")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read(1), store.read(1))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_existing_store_is_replaced_only_on_request(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", make_events(2))
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="pass --overwrite"):
        write(tmp_path / "a.zarr", make_events(3))
    assert snapshot(tmp_path) == before
    write(tmp_path / "a.zarr", make_events(3), overwrite=True)
    assert EventStore.open(tmp_path / "a.zarr").shape[0] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_overwrite_spares_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "thesis", tmp_path / "file"):
        with pytest.raises(UserError, match="remove it yourself"):
            require_free(path, overwrite=True)
    with pytest.raises(UserError, match="got the file"):
        require_free(tmp_path / "file" / "deeper" / "a.zarr", overwrite=False)
    with pytest.raises(UserError, match="name one like"):
        require_free("/", overwrite=True)


def failing(events: list[Event], error: Exception) -> Iterator[Event]:
    yield from events
    raise error


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    ("error", "seen", "words"),
    [
        (UserError("a bad frame"), UserError, "a bad frame"),
        (OSError(errno.ENOSPC, "No space left on device"), UserError, "no space left for"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), UserError, "no space left for"),
        (OSError(errno.EIO, "Input/output error"), OSError, "Input/output"),
    ],
)
def test_a_failure_leaves_nothing(
    tmp_path: Path, error: Exception, seen: type[Exception], words: str, existing: bool
) -> None:
    if existing:
        write(tmp_path / "a.zarr", make_events(2))
    before = snapshot(tmp_path)
    with pytest.raises(seen, match=words):
        write(tmp_path / "a.zarr", failing(make_events(3), error), overwrite=existing)
    assert snapshot(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == int(existing)


def test_events_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    first, second = make_events(2)
    cases = {
        "of shape": second._replace(values=second.values[:, 1:]),
        "times in": second._replace(times=second.times[1:]),
        "increasing times": second._replace(times=second.times[::-1]),
        "an id and a source": second._replace(source=""),
        "a split out of": second._replace(split="training"),
        "unique event ids": second._replace(id=first.id),
    }
    for words, event in cases.items():
        with pytest.raises(ValueError, match=words):
            write(tmp_path / "a.zarr", [first, event])
    with pytest.raises(ValueError, match="licence"):
        write_store(tmp_path / "a.zarr", [first], quantity=VIL, time_step_seconds=300.0, crs=CRS, attrs={"source": "x"})
    with pytest.raises(UserError, match="at least one event"):
        write(tmp_path / "a.zarr", [])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_store_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    zarr.create_group(str(tmp_path / "v2"), zarr_format=2)
    zarr.create_group(str(tmp_path / "foreign"), zarr_format=3)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "zarr.json").write_text('{"zarr_format": 3')
    words = {
        "absent": "got nothing",
        "empty": "folder of something else",
        "file": "got a file",
        "v2": "Zarr v2",
        "foreign": "got none",
        "damaged": "expected a readable Zarr v3 group",
    }
    for name, reason in words.items():
        problems = check_store(tmp_path / name)
        assert len(problems) == 1
        assert reason in problems[0]
        with pytest.raises(UserError, match="expected"):
            EventStore.open(tmp_path / name)


def edit(store: Path, member: str, **attributes: object) -> None:
    path = store / member / "zarr.json"
    content = json.loads(path.read_text())
    content["attributes"].update(attributes)
    path.write_text(json.dumps(content))


def test_a_store_off_the_schema_is_told_in_words(tmp_path: Path) -> None:
    write(tmp_path / "good.zarr", make_events(3))

    def problems_after(name: str) -> str:
        return "; ".join(check_store(tmp_path / name))

    def copy(name: str) -> Path:
        shutil.copytree(tmp_path / "good.zarr", tmp_path / name)
        return tmp_path / name

    edit(copy("version"), "", schema_version=99)
    assert "expected schema_version 1" in problems_after("version")
    assert "got 99" in problems_after("version")
    edit(copy("quantity"), "", quantity="snow_depth")
    assert "'snow_depth'" in problems_after("quantity")
    edit(copy("other"), "", quantity="vil")
    assert "expected a variable 'vil'" in problems_after("other")
    edit(copy("scale"), "rainfall_rate", scale_factor=0.1)
    assert "scale_factor 0.01, got 0.1" in problems_after("scale")
    edit(copy("fill"), "rainfall_rate", _FillValue=0)
    assert "_FillValue 65535, got 0" in problems_after("fill")
    shutil.rmtree(copy("lost") / "time")
    assert problems_after("lost") == "variable 'time' is missing"
    group = zarr.open_group(str(copy("flags")), mode="r+")
    group["split"][:] = np.array([0, 7, 2], dtype=np.int8)
    assert "split flags 0 to 2, got [0, 2, 7]" in problems_after("flags")
    edit_chunks = json.loads((copy("chunks") / "rainfall_rate" / "zarr.json").read_text())
    edit_chunks["chunk_grid"]["configuration"]["chunk_shape"] = [1, 1, HEIGHT, WIDTH // 2]
    (tmp_path / "chunks" / "rainfall_rate" / "zarr.json").write_text(json.dumps(edit_chunks))
    assert f"whole frames of one event, got chunks of (1, 1, {HEIGHT}, {WIDTH // 2})" in problems_after("chunks")
    retyped = json.loads((copy("type") / "time" / "zarr.json").read_text())
    retyped.update(data_type="float64", fill_value=0.0)
    (tmp_path / "type" / "time" / "zarr.json").write_text(json.dumps(retyped))
    assert "expected time of another type, got float64" in problems_after("type")
    group = zarr.open_group(str(copy("short")), mode="r+")
    group["event_id"].resize((2,))
    assert "expected event_id of shape (3,), got (2,)" in problems_after("short")
    attributes = json.loads((copy("bare") / "zarr.json").read_text())
    del attributes["attributes"]["licence"]
    (tmp_path / "bare" / "zarr.json").write_text(json.dumps(attributes))
    assert "'licence' is missing" in problems_after("bare")


def test_another_quantity_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", make_events(1))
    with pytest.raises(UserError, match="expected a store of vil, got rainfall_rate"):
        EventStore.open(tmp_path / "a.zarr", "vil")
