"""Named splits: sizes, order and hashes for a catalogue of SEVIR's structure, against the semantics in pandas."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.catalog import Entry, read_catalog, select
from data_tools.cli import UserError
from data_tools.split_files import Part, ShardMode, Split, Window, read_split, shard, write_split
from data_tools.splits import EVENT_SPAN, SPLITTERS, Options, main, named_split, shuffle_twice

COUNTS = {"train": 11_906, "val": 3_020, "test": 4_053}
"""Events of SEVIR with nothing missing in their VIL, by Earthformer's dates."""

BOUNDS = {
    "train": ("2017-06-13T00:00:00", "2019-01-01T00:00:00"),
    "val": ("2019-01-01T00:00:00", "2019-06-01T00:00:00"),
    "test": ("2019-06-01T00:00:00", "2019-11-30T00:00:00"),
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of SEVIR's size and structure: storms and random events, other image types, missing data, doubled
    ids, in no order."""
    rng = np.random.default_rng(7)
    rows, used = [], iter(rng.permutation(900_000)[:40_000] + 100_000)

    def event(time: np.datetime64, missing: float = 0.0, kinds: tuple[str, ...] = ("vil",)) -> str:
        name = f"{'RS'[int(rng.random() < 0.2)]}{next(used)}"
        stamp = str(time).replace("T", " ")
        rows.extend((name, f"{kind}/{stamp[:4]}/FILE.h5", len(rows), kind, stamp, missing) for kind in kinds)
        return name

    for part, count in COUNTS.items():
        begin, end = (np.datetime64(bound, "s") for bound in BOUNDS[part])
        seconds = int((end - begin).astype(np.int64))
        times = [begin + np.timedelta64(300 * int(k), "s") for k in rng.integers(1, seconds // 300, count - 1)]
        for number, time in enumerate([*times, end]):  # the very midnight belongs to the part before it
            event(time, kinds=("ir069", "vil", "lght") if number % 50 == 0 else ("vil",))
        for _ in range(count // 40):
            event(times[0], missing=0.25)
        event(times[1], kinds=("vil", "vil"))
        event(times[2], kinds=("vis",))
    order = rng.permutation(len(rows))
    path = tmp_path_factory.mktemp("catalog") / "CATALOG.csv"
    header = ["id", "file_name", "file_index", "img_type", "time_utc", "pct_missing"]
    pd.DataFrame([rows[k] for k in order], columns=header).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def entries(catalog: Path) -> list[Entry]:
    return read_catalog(catalog)


@pytest.fixture(scope="module")
def splits(entries: list[Entry]) -> dict[str, Split]:
    return {name: named_split(name, entries) for name in SPLITTERS}


def published(catalog: Path, after: str | None, until: str | None, shuffle: bool) -> list[str]:
    """Ids in the order of the published loader, by its own means: filters, groups and shuffles of a data frame."""
    table = pd.read_csv(catalog, parse_dates=["time_utc"], low_memory=False)
    if after:
        table = table[table.time_utc > pd.Timestamp(after)]
    if until:
        table = table[table.time_utc <= pd.Timestamp(until)]
    table = table[table.pct_missing == 0]
    sizes = table[table.img_type == "vil"].groupby("id").size()
    samples = pd.DataFrame({"id": sizes[sizes == 1].index})
    for _ in range(2 if shuffle else 0):
        samples = samples.sample(frac=1, random_state=1)
    return samples.id.tolist()


def cut(ids: list[str], starts: tuple[int, ...]) -> list[tuple[str, int]]:
    return [(name, start) for name in ids for start in starts]


def test_two_shuffles_are_those_of_pandas() -> None:
    assert shuffle_twice(range(10)) == [6, 5, 1, 0, 2, 4, 9, 7, 8, 3]


def test_sizes_are_the_published_ones(splits: dict[str, Split]) -> None:
    def sizes(name: str) -> dict[str, int]:
        return {part: len(windows) for part, windows in splits[name].parts.items()}

    assert sizes("earthformer") == {"train": 35_718, "val": 9_060, "test": 12_159}
    assert sizes("prediff") == {"train": 40_301, "val": 4_477, "test": 12_159}
    assert sizes("challenge") == {"train": 35_808, "val": 8_952, "test": 12_144}  # 44,760 = 24 * (14,926 // 8)


def test_prediffs_windows_are_the_published_loaders(catalog: Path, splits: dict[str, Split]) -> None:
    split = splits["prediff"]
    before = cut(published(catalog, None, "2019-06-01", shuffle=True), (0, 6, 12))
    assert [before.index(window) for window in split.part("train").windows[:5]] == [22124, 4135, 36559, 35163, 16287]
    assert [before.index(window) for window in split.part("val").windows[:5]] == [25773, 10662, 37828, 43804, 30780]
    lengths = torch.utils.data.random_split(before, [0.9, 0.1], torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert [tuple(window) for window in split.part("train").windows] == list(lengths[0])
    assert [tuple(window) for window in split.part("val").windows] == list(lengths[1])
    assert list(split.part("test").windows) == cut(published(catalog, "2019-06-01", None, shuffle=False), (0, 6, 12))
    assert {(part.raw_frames, part.frames) for part in split.parts.values()} == {(25, 13)}


def test_earthformers_windows_are_the_published_loaders(
    catalog: Path, entries: list[Entry], splits: dict[str, Split]
) -> None:
    split = splits["earthformer"]
    wanted = {
        "train": published(catalog, None, "2019-01-01", shuffle=True),
        "val": published(catalog, "2019-01-01", "2019-06-01", shuffle=False),
        "test": published(catalog, "2019-06-01", None, shuffle=False),
    }
    for part, ids in wanted.items():
        assert list(split.part(part).windows) == cut(ids, (0, 12, 24))
        assert (split.part(part).raw_frames, split.part(part).frames) == (49, 25)
    reduced = named_split("earthformer", entries, 25)
    assert list(reduced.part("val").windows) == cut(wanted["val"], (0, 6, 12))


def test_the_challenges_windows_are_in_batches_of_eight_events(catalog: Path, splits: dict[str, Split]) -> None:
    split = splits["challenge"]
    for after, until, parts in ((None, "2019-06-01", ("train", "val")), ("2019-06-01", None, ("test",))):
        ids = published(catalog, after, until, shuffle=False)
        wanted = []
        for first in range(0, len(ids) - 7, 8):
            for start in (0, 12, 24):
                wanted += [(name, start) for name in ids[first : first + 8]]
        got = [window for part in parts for window in split.part(part).windows]
        assert got == wanted
    assert len(split.part("train")) == int(0.8 * 44_760)


def test_event_clean_parts_share_no_moment(entries: list[Entry], splits: dict[str, Split]) -> None:
    split = splits["event-clean"]
    times = {entry.id: entry.time for entry in select(entries)}
    middles = {
        name: np.sort(np.array([times[event] for event in part.events], "datetime64[s]"))
        for name, part in split.parts.items()
    }
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        times, others = middles[one], np.concatenate([[np.datetime64("1900")], middles[other], [np.datetime64("2100")]])
        after = np.searchsorted(others, times)
        assert min((others[after] - times).min(), (times - others[after - 1]).min()) > EVENT_SPAN
    assert split.part("test").windows == splits["prediff"].part("test").windows
    assert 0.07 < len(split.part("val")) / 44_778 < 0.13
    assert len(split.part("train")) / 44_778 > 0.8


def test_prediffs_parts_do_share_events(splits: dict[str, Split]) -> None:
    split = splits["prediff"]
    shared = set(split.part("train").events) & set(split.part("val").events)
    assert len(shared) > 0.95 * len(split.part("val").events)


def test_event_clean_does_not_depend_on_what_else_there_is(entries: list[Entry], splits: dict[str, Split]) -> None:
    """A day validates or not whatever the catalogue: of a part of it no event changes sides, some just come free."""
    some = named_split("event-clean", [entry for entry in entries if entry.time < np.datetime64("2019-09-01")])
    every = splits["event-clean"]
    assert set(some.part("val").events) == set(every.part("val").events)
    assert not set(some.part("train").events) & set(every.part("val").events)


def test_files_keep_the_split(tmp_path: Path, splits: dict[str, Split]) -> None:
    split = splits["prediff"]
    write_split(tmp_path / "deep" / "prediff.json", split)
    again = read_split(tmp_path / "deep" / "prediff.json")
    assert (again.name, again.sha256, dict(again.parts)) == (split.name, split.sha256, dict(split.parts))
    assert os.listdir(tmp_path / "deep") == ["prediff.json"]
    assert len({other.sha256 for other in splits.values()}) == len(SPLITTERS)


def test_hashes_see_order_place_and_length() -> None:
    windows = (Window("R1", 0), Window("S2", 6))
    base = Part(25, 13, windows)
    changed = [
        Part(25, 13, windows[::-1]),
        Part(25, 12, windows),
        Part(49, 13, windows),
        Part(25, 13, (Window("R1", 6), Window("S2", 0))),
        Part(25, 13, windows[:1]),
    ]
    assert len({part.sha256 for part in [base, *changed]}) == 6
    assert Split("a", {"train": base}).sha256 == Split("b", {"train": base}).sha256
    assert Split("a", {"train": base}).sha256 != Split("a", {"test": base}).sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["parts"]["train"]["windows"].reverse(), "got others in train"),
        (lambda c: c["parts"]["train"]["windows"].pop(), "got others in train"),
        (lambda c: c["parts"].pop("val"), "got others in its parts"),
        (lambda c: c["parts"]["val"]["windows"].append(["R1", "0"]), "damaged one"),
        (lambda c: c["parts"]["val"].pop("frames"), "damaged one"),
        (lambda c: c.update(parts=[1, 2]), "damaged one"),
        (lambda c: c.update(version=2), "of version 1"),
        (lambda c: c.update(format="else"), "of version 1"),
    ],
)
def test_changed_files_are_refused(tmp_path: Path, change: Callable[[dict], object], message: str) -> None:
    part = Part(25, 13, (Window("R1", 0), Window("R1", 6)))
    path = tmp_path / "split.json"
    write_split(path, Split("mine", {"train": part, "val": part}))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_split(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")])
def test_files_that_are_no_splits_are_refused(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "split.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match="expected a"):
        read_split(path)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data_tools\.splits"):
        read_split(tmp_path / "none.json")


@given(st.integers(0, 60), st.integers(1, 7))
def test_shards_are_the_published_loaders(count: int, ranks: int) -> None:
    everyone = {mode: [shard(count, rank, ranks, mode) for rank in range(ranks)] for mode in get_args(ShardMode)}
    q = count // ranks
    for rank in range(ranks):
        assert [shares[rank].start for shares in everyone.values()] == [rank * q] * 3
    assert [len(share) for share in everyone["floor"]] == [q] * ranks
    assert [k for share in everyone["uneven"] for k in share] == list(range(count))
    assert {len(share) for share in everyone["ceil"]} == {len(everyone["uneven"][-1])}
    assert everyone["ceil"][-1] == everyone["uneven"][-1]


@pytest.mark.parametrize(("rank", "mode", "message"), [(2, "floor", "rank"), (0, "even", "mode")])
def test_impossible_shards_are_refused(rank: int, mode: ShardMode, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shard(8, rank, 2, mode)


@settings(max_examples=30)
@given(st.permutations([Window(f"R{k // 3}", 6 * (k % 3)) for k in range(21)]), st.integers(1, 4))
def test_windows_go_with_their_events(windows: list[Window], ranks: int) -> None:
    part = Part(25, 13, tuple(windows))
    shares = [part.shard(rank, ranks, "uneven") for rank in range(ranks)]
    assert sorted(window for share in shares for window in share.windows) == sorted(windows)
    assert sum(len(share.events) for share in shares) == 7
    assert all(len(share) == 3 * len(share.events) for share in shares)
    assert [w for w in windows if w in set(shares[0].windows)] == list(shares[0].windows)


def test_the_command_writes_a_split(
    tmp_path: Path, catalog: Path, splits: dict[str, Split], run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    out = tmp_path / "split.json"
    done = run_cli("data_tools.splits", str(catalog), "--name", "prediff", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "40301 train, 4477 val, 12159 test windows" in done.stdout
    assert read_split(out).sha256 == splits["prediff"].sha256
    with pytest.raises(UserError, match="--overwrite"):
        main(Options(str(catalog), "prediff", out))


def test_real_rows_split(shared: Path) -> None:
    """A published part of the catalogue: storms of 2019 only, so that Earthformer has nothing to train on."""
    path = shared / "sevir" / "catalog_partial.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    rows = read_catalog(path)
    split = named_split("prediff", rows)
    chosen = select(rows)
    late = [entry.id for entry in chosen if entry.time > np.datetime64("2019-06-01T00:00:00")]
    assert list(split.part("test").events) == late
    assert len(split.part("train")) + len(split.part("val")) == 3 * (len(chosen) - len(late))
    with pytest.raises(UserError, match="none for train"):
        named_split("earthformer", rows)


def test_unknown_names_and_lengths_are_refused(entries: list[Entry], splits: dict[str, Split]) -> None:
    with pytest.raises(UserError, match="event-clean"):
        named_split("mine", entries)
    with pytest.raises(UserError, match="25"):
        named_split("prediff", entries, 24)
    with pytest.raises(UserError, match="part out of train, val, test"):
        splits["prediff"].part("predict")
