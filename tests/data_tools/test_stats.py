"""Statistics of stores against plain counting, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_tools import stats
from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE, VIL, Quantity
from data_tools.sources import open_events, pixel_of
from data_tools.stats import histogram_edges, ratio_interval, summarise
from data_tools.store import Event, EventStore, write_store
from data_tools.tally import merge, tally, tally_events

FRAMES, HEIGHT, WIDTH = 5, 48, 40


def fields(number: int, quantity: Quantity) -> np.ndarray:
    """(T, H, W): blobs that go one row down and two columns to the left each frame, some pixels missing."""
    generator = np.random.default_rng(number)
    first = np.zeros((HEIGHT, WIDTH))
    for row, column in generator.integers(8, 32, (12, 2)):
        first[row : row + 4, column : column + 3] = generator.uniform(1.0, 200.0 if quantity is VIL else 30.0)
    moved = np.stack([np.roll(first, (step, -2 * step), axis=(0, 1)) for step in range(FRAMES)])
    values = np.rint(moved) if quantity is VIL else np.rint(moved * 100) / 100
    values = values.astype(np.float32)
    values[number % FRAMES, 0, : number + 1] = np.nan
    return values


def make_store(
    path: Path, quantity: Quantity = RAINFALL_RATE, splits: tuple[str, ...] = ("train",) * 11 + ("test",) * 3
):
    start = np.datetime64("2019-05-01T00:00:00")
    events = [
        Event(
            f"E{number:02d}",
            start + np.arange(FRAMES) * np.timedelta64(300, "s") + np.timedelta64(number, "D"),
            fields(number, quantity),
            split,
            "made",
            0.0,
            0.0,
        )
        for number, split in enumerate(splits)
    ]
    write_store(
        path,
        events,
        quantity=quantity,
        time_step_seconds=300.0,
        crs={},
        attrs={"source": "made", "licence": "CC0"},
        pixel_size=(2000.0, -2000.0),
    )
    return EventStore.open(path)


@pytest.mark.parametrize("quantity", [VIL, RAINFALL_RATE], ids=lambda quantity: quantity.name)
def test_every_number_is_that_of_plain_counting(tmp_path: Path, quantity: Quantity) -> None:
    store = make_store(tmp_path / "s.zarr", quantity)
    indices = store.indices("train")
    found = summarise(tally(store, indices, pairs=4, workers=2), store)
    values = np.concatenate([store.read(index).reshape(-1) for index in indices]).astype(np.float64)
    seen = values[~np.isnan(values)]
    assert found["events"] == 11
    assert found["frames"] == 55
    assert found["pixels"] == values.size
    assert found["missing_share"] == pytest.approx(np.isnan(values).mean())
    assert found["events_with_missing"] == 11
    assert found["mean"] == pytest.approx(seen.mean())
    assert found["standard_deviation"] == pytest.approx(seen.std())
    for name, value in found["quantiles"].items():
        assert value == pytest.approx(np.quantile(seen, float(name), method="inverted_cdf"))
    for name, one in found["exceedance"].items():
        assert one["share"] == pytest.approx((seen >= np.float32(float(name))).mean())
        low, high = one["interval_95"]
        assert 0.0 <= low <= one["share"] <= high <= 1.0
    counts = np.histogram(seen, found["histogram"]["edges"])[0]
    assert found["histogram"]["pixels"] == counts.tolist()
    assert sum(counts) == len(seen)  # the classes cover all there can be


def test_blocks_and_threads_change_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr")
    told: list[int] = []
    one = tally(store, range(14), pairs=2, workers=3, report=told.append)
    whole = tally_events(store, range(14), 2)
    pieces = merge([tally_events(store, range(5), 2), tally_events(store, range(5, 14), 2)])
    for other in (whole, pieces):
        for name in ("codes", "pixels", "missing", "exceeding", "motion"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        assert (one.dry, one.empty_frames) == (other.dry, other.empty_frames)
    assert sorted(told) == [6, 8]


def test_motion_is_that_of_the_blobs(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr")
    found = summarise(tally(store, range(14), pairs=4, workers=1), store)["motion"]
    assert found["pairs"] == 14 * 4
    assert found["mean_rows_columns"] == pytest.approx([1.0, -2.0], abs=0.15)
    assert found["pixels_per_frame"]["0.5"] == pytest.approx(5**0.5, abs=0.1)
    assert found["km_per_h"]["0.5"] == pytest.approx(5**0.5 * 2.0 * 12.0, abs=3.0)
    assert sum(found["histogram_km_per_h"]["pairs"]) + found["histogram_km_per_h"]["above"] == found["pairs"]


def test_dry_missing_and_no_pairs(tmp_path: Path) -> None:
    times = np.datetime64("2019-05-01T00:00:00") + np.arange(3) * np.timedelta64(300, "s")
    dry = np.zeros((3, 6, 7), dtype=np.float32)
    lost = np.full((3, 6, 7), np.nan, dtype=np.float32)
    events = [Event("dry", times, dry, "train", "m", 0.0, 0.0), Event("lost", times, lost, "val", "m", 0.0, 0.0)]
    attrs = {"source": "made", "licence": "CC0"}
    write_store(tmp_path / "s.zarr", events, quantity=VIL, time_step_seconds=300.0, crs={}, attrs=attrs)
    store = EventStore.open(tmp_path / "s.zarr")
    found = summarise(tally(store, [0], pairs=9, workers=1), store)
    assert (found["motion"]["pairs"], found["motion"]["pairs_too_dry"]) == (0, 2)
    assert found["motion"]["km_per_h"] is None
    assert found["mean"] == 0.0
    found = summarise(tally(store, [1], pairs=0, workers=1), store)
    assert (found["mean"], found["missing_share"], found["frames_wholly_missing"]) == (None, 1.0, 3)
    assert found["exceedance"]["16"]["share"] is None
    assert found["motion"]["pairs_too_dry"] == 0
    json.dumps(found, allow_nan=False)


def test_the_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        wholes = generator.integers(50, 150, 60)
        parts = generator.binomial(wholes, generator.beta(2.0, 8.0, 60))  # events differ: mean 0.2
        _, low, high = ratio_interval(parts, wholes)
        covered += low <= 0.2 <= high
    assert 0.92 <= covered / 1000 <= 0.97


def test_intervals_of_little() -> None:
    assert ratio_interval(np.zeros(3), np.zeros(3)) is None
    ratio, low, high = ratio_interval(np.array([3]), np.array([4]))
    assert ratio == 0.75
    assert np.isnan([low, high]).all()
    assert ratio_interval(np.array([1, 2]), np.array([2, 4])) == (0.5, 0.5, 0.5)


def test_classes_of_codes_and_of_rates() -> None:
    assert len(histogram_edges(VIL)) == 256
    edges = histogram_edges(RAINFALL_RATE)
    assert edges[1] == 0.1
    assert (np.diff(edges) > 0).all()
    assert edges[-1] >= 655.34


def test_pixels_keep_their_orientation(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", splits=("train",))
    assert pixel_of(open_events(tmp_path / "s.zarr")) == (2000.0, -2000.0, "m")


def test_a_sevir_folder_is_counted_as_far_as_it_is_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = [f"vil/{year}/SEVIR_VIL_STORMEVENTS_{year}_0101_0630.h5" for year in (2018, 2019)]
    rows = [f"S{n},{names[0]},{n},vil,2018-05-0{n + 1} 18:30:00,0" for n in range(2)]
    header = "id,file_name,file_index,img_type,time_utc,pct_missing"
    (tmp_path / "CATALOG.csv").write_text("\n".join([header, *rows, f"S9,{names[1]},0,vil,2019-05-01 18:30:00,0", ""]))
    path = tmp_path / "data" / names[0]
    path.parent.mkdir(parents=True)
    codes = np.random.default_rng(4).integers(0, 255, (2, 6, 6, 49), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        file["vil"] = codes
    stats.main(stats.Options(str(tmp_path), out=str(tmp_path / "o")))
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["files_not_there"] == [names[1]]
    assert content["splits"].keys() == {"train"}
    assert content["splits"]["train"]["mean"] == pytest.approx(codes.mean())
    assert "without 1 files" in capsys.readouterr().out


def test_the_command_writes_numbers_and_a_picture(run_cli, tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr")
    done = run_cli("data_tools.stats", str(tmp_path / "s.zarr"))
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "s.stats.json").read_text())
    assert {name: one["events"] for name, one in content["splits"].items()} == {"train": 11, "test": 3}
    assert (tmp_path / "s.stats.png").read_bytes().startswith(b"\x89PNG")
    assert "train: 11 events" in done.stdout
    with pytest.raises(UserError, match="--overwrite"):
        stats.main(stats.Options(str(tmp_path / "s.zarr")))
    stats.main(stats.Options(str(tmp_path / "s.zarr"), split="test", overwrite=True, pairs=0))
    assert json.loads((tmp_path / "s.stats.json").read_text())["splits"].keys() == {"test"}


def test_mistakes_leave_nothing_behind(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="expected events of val"):
        stats.main(stats.Options(str(tmp_path / "s.zarr"), split="val"))
    with pytest.raises(UserError, match="expected --pairs from 0"):
        stats.main(stats.Options(str(tmp_path / "s.zarr"), pairs=-1))
    with pytest.raises(UserError, match="expected an event store"):
        stats.main(stats.Options(str(tmp_path / "other.zarr")))
    key = store.fields.metadata.encode_chunk_key((4, 0, 0, 0))
    (tmp_path / "s.zarr" / "rainfall_rate" / key).write_bytes(b"damage")
    with pytest.raises(UserError, match="E04"):
        stats.main(stats.Options(str(tmp_path / "s.zarr")))
    assert sorted(tmp_path.iterdir()) == before
