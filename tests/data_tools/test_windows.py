from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.archive import MISSING, Grid, Stamp
from data_tools.cli import UserError
from data_tools.store import Event
from data_tools.windows import Cut, Tiles, chronological, cut_windows, longest_stretch, place_tiles

ROWS, COLUMNS, PATCH = 21, 34, 8
GRID = Grid((ROWS, COLUMNS), 1000.0, -2000.0, (10.0, -20.0), "m", {"grid_mapping_name": "made_up"})
CUT = Cut(patch=PATCH, frames=3, stride=3, eval_stride=3, overlap=0, wet_fraction=0.0, max_missing=1.0)
BORDERS = (0.45, 0.60, 0.67)


def test_the_documented_split_of_92_frames() -> None:
    splits = chronological(92, BORDERS)
    clock = [f"{5 * i // 60:02d}:{5 * i % 60:02d}" for i in range(92)]
    ends = {
        name: (clock[splits.index(name)], clock[91 - splits[::-1].index(name)]) for name in ("train", "val", "test")
    }
    assert ends == {"train": ("00:00", "03:20"), "val": ("03:25", "04:30"), "test": ("05:10", "07:35")}
    assert splits.count(None) == 7


@given(st.integers(1, 300), st.tuples(*[st.floats(0, 1)] * 3).map(sorted))
def test_splits_follow_time(count: int, borders: list[float]) -> None:
    splits = chronological(count, (borders[0], borders[1], borders[2]))
    order = [("train", "val", None, "test").index(split) for split in splits]
    assert order == sorted(order)
    assert len(splits) == count


@pytest.mark.parametrize(("count", "begin"), [(100, 67), (300, 201), (12, 9)])
def test_rounding_does_not_lose_a_frame(count: int, begin: int) -> None:
    assert chronological(count, BORDERS).index("test") == begin


@pytest.mark.parametrize("borders", [(0.6, 0.5, 0.9), (-0.1, 0.5, 0.9), (0.1, 0.5, 1.1)])
def test_borders_out_of_order_are_refused(borders: tuple[float, float, float]) -> None:
    with pytest.raises(UserError, match="three ascending fractions"):
        chronological(10, borders)


@pytest.mark.parametrize(
    "change",
    [
        {"patch": 0},
        {"frames": 0},
        {"stride": 0},
        {"eval_stride": -1},
        {"overlap": 8},
        {"overlap": -1},
        {"wet_fraction": 1.5},
        {"max_missing": -0.1},
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, float]) -> None:
    (name,) = change
    with pytest.raises(UserError, match=f"expected --{name}"):
        replace(CUT, **change)  # type: ignore[arg-type]


def test_a_tile_counts_its_pixels() -> None:
    mask = np.random.default_rng(0).random((ROWS, COLUMNS)) < 0.4
    tiles = Tiles(np.array([0, 5, 13]), np.array([2, 3, 20, 26]), PATCH)
    counts = tiles.count(mask)
    assert counts.shape == (3, 4)
    for i, row in enumerate(tiles.rows):
        for j, column in enumerate(tiles.columns):
            assert counts[i, j] == mask[row : row + PATCH, column : column + PATCH].sum()


def test_tiles_are_placed_where_the_radar_sees() -> None:
    missing = np.ones((ROWS, COLUMNS), dtype=bool)
    missing[4:20, 8:32] = False  # room for two rows of three tiles, begun at (4, 8)
    tiles = place_tiles(missing, PATCH, 0, 0.0)
    assert (tiles.rows.tolist(), tiles.columns.tolist()) == ([4, 12], [0, 8, 16, 24])
    assert (tiles.count(missing) == 0).sum() == 6
    halves = place_tiles(missing, PATCH, 4, 0.0)
    assert (halves.rows.tolist(), halves.columns.tolist()) == ([0, 4, 8, 12], [0, 4, 8, 12, 16, 20, 24])
    everywhere = place_tiles(np.zeros((ROWS, COLUMNS), dtype=bool), PATCH, 0, 0.0)
    assert (everywhere.rows.tolist(), everywhere.columns.tolist()) == ([0, 8], [0, 8, 16, 24])
    with pytest.raises(UserError, match="at least 22 x 22 pixels, got 21 x 34"):
        place_tiles(missing, 22, 0, 0.0)


def stream(
    splits: list[str | None], runs: list[int] | None = None, codes: np.ndarray | None = None
) -> Iterator[tuple[Stamp, str | None, np.ndarray]]:
    begin = np.datetime64("2021-03-04T05:00:00", "s")
    for i, split in enumerate(splits):
        stamp = Stamp(begin + np.timedelta64(300 * i, "s"), Path(f"frame{i}"), runs[i] if runs else 0)
        yield stamp, split, np.full((ROWS, COLUMNS), 100 + i, np.uint16) if codes is None else codes[i]


def starts(events: list[Event]) -> set[tuple[str, int]]:
    """(split, number of the first frame) of each event of `stream`, after a look whether its frames are successive."""
    found = set()
    for event in events:
        first = round(float(event.values[0, 0, 0]) * 100) - 100
        np.testing.assert_allclose(event.values[:, 0, 0], (100 + first + np.arange(CUT.frames)) / 100, rtol=1e-6)
        assert event.times[0] == np.datetime64("2021-03-04T05:00:00", "s") + np.timedelta64(300 * first, "s")
        found.add((event.split, first))
    return found


def cut(
    frames: Iterator[tuple[Stamp, str | None, np.ndarray]], how: Cut = CUT, gaps_split: bool = False
) -> list[Event]:
    return list(cut_windows(frames, GRID, how, source="made", gaps_split=gaps_split))


def test_windows_keep_within_their_split() -> None:
    splits = ["train"] * 7 + ["val"] * 3 + [None] * 3 + ["test"] * 5
    assert starts(cut(stream(splits))) == {("train", 0), ("train", 3), ("val", 7), ("test", 13)}
    dense = starts(cut(stream(splits), replace(CUT, stride=1, eval_stride=2)))
    assert dense == {("train", i) for i in range(5)} | {("val", 7), ("test", 13), ("test", 15)}


def test_windows_keep_within_their_run() -> None:
    assert starts(cut(stream(["train"] * 10, runs=[0] * 4 + [1] * 2 + [2] * 4), replace(CUT, stride=1))) == {
        ("train", 0),
        ("train", 1),
        ("train", 6),
        ("train", 7),
    }


def test_a_frame_without_data_is_refused_or_a_gap() -> None:
    codes = np.stack([np.full((ROWS, COLUMNS), 100 + i, np.uint16) for i in range(9)])
    codes[4] = MISSING
    with pytest.raises(UserError, match="only missing pixels in frame4"):
        cut(stream(["train"] * 9, codes=codes))
    split = cut(stream(["train"] * 9, codes=codes), replace(CUT, stride=1), gaps_split=True)
    assert starts(split) == {("train", 0), ("train", 1), ("train", 5), ("train", 6)}


def test_events_hold_what_lies_under_their_tile() -> None:
    codes = np.random.default_rng(1).integers(0, 5000, size=(3, ROWS, COLUMNS)).astype(np.uint16)
    codes[1, 9, 17] = MISSING
    events = cut(stream(["test"] * 3, codes=codes))
    assert len({event.id for event in events}) == len(events) == 8
    event = next(event for event in events if event.id == "made-20210304T0500-y8-x16")
    expected = (codes[:, 8:16, 16:24] * 0.01).astype(np.float32)
    expected[1, 1, 1] = np.nan
    np.testing.assert_array_equal(event.values, expected)
    assert (event.x0, event.y0, event.source) == (1000.0 + 160.0, -2000.0 - 160.0, "made")


def test_only_training_tiles_overlap() -> None:
    how = replace(CUT, overlap=4)
    assert len(cut(stream(["train"] * 3), how)) == 4 * 7
    assert len(cut(stream(["val"] * 3), how)) == len(cut(stream(["test"] * 3), how)) == 2 * 4


@pytest.mark.parametrize(("wet_fraction", "max_missing"), [(0.3, 0.1), (0.0, 0.0), (0.4, 1.0)])
def test_dry_and_masked_tiles_are_left_out(wet_fraction: float, max_missing: float) -> None:
    generator = np.random.default_rng(2)
    level = generator.integers(0, 110, size=(3, ROWS, COLUMNS // 2)).repeat(2, axis=2)
    level[:, :, 20:] //= 2  # the east is dry
    codes = np.where(generator.random(level.shape) < 0.08, MISSING, level).astype(np.uint16)
    codes[:, :, :8] = level[:, :, :8]
    events = cut(stream(["train"] * 3, codes=codes), replace(CUT, wet_fraction=wet_fraction, max_missing=max_missing))
    expected = set()
    tiles = place_tiles(codes[0] == MISSING, PATCH, 0, max_missing)
    for row in tiles.rows:
        for column in tiles.columns:
            tile = codes[:, row : row + PATCH, column : column + PATCH]
            rain = ((tile >= 50) & (tile != MISSING)).mean()
            if rain >= wet_fraction and (tile == MISSING).mean(axis=(1, 2)).max() <= max_missing:
                expected.add(f"made-20210304T0500-y{row}-x{column}")
    assert {event.id for event in events} == expected
    assert 0 < len(expected) < len(tiles.rows) * len(tiles.columns)


def test_a_frame_of_another_shape_is_refused() -> None:
    def frames() -> Iterator[tuple[Stamp, str | None, np.ndarray]]:
        yield from stream(["train"] * 2)
        yield Stamp(np.datetime64("2021-03-04T05:10:00", "s"), Path("odd.h5")), "train", np.ones((5, 6), np.uint16)

    with pytest.raises(UserError, match=r"like the first, got \(5, 6\) in odd\.h5"):
        cut(frames())


def test_the_longest_stretch() -> None:
    stamps = [stamp for stamp, _, _ in stream([None] * 8, runs=[0, 0, 0, 1, 1, 1, 1, 1])]
    assert longest_stretch(stamps, ["train"] * 8) == 5
    assert longest_stretch(stamps, ["train", "train", "val", "val", "val", None, None, None]) == 2
    assert longest_stretch(stamps, [None] * 8) == 0
