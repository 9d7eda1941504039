from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.archive import (
    Grid,
    Stamp,
    describe_sessions,
    list_frames,
    number_runs,
    on_one_grid,
    parse_stamp,
    parse_utc,
    session_gaps,
    time_step,
)
from data_tools.cli import UserError
from data_tools.fmi import Fmi
from data_tools.knmi import Knmi
from data_tools.mrms import Mrms


def stamps_at(*minutes: int) -> list[Stamp]:
    begin = np.datetime64("2020-02-28T23:00:00", "s")
    return [Stamp(begin + np.timedelta64(60 * minute, "s"), Path(f"{minute}.h5")) for minute in minutes]


def runs(stamps: list[Stamp]) -> list[tuple[str, int]]:
    return [(stamp.path.stem, stamp.run) for stamp in stamps]


@given(st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)))
def test_every_time_in_a_file_name_is_understood(moment: datetime) -> None:
    second, minute = np.datetime64(moment, "s"), np.datetime64(moment, "m")
    assert Knmi().time_of(Path(f"RAD_NL25_RAP_5min_{moment:%Y%m%d%H%M}.h5")) == minute
    assert Fmi().time_of(Path(f"a/{moment:%Y%m%d%H%M}_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz")) == minute
    assert Mrms().time_of(Path(f"PrecipRate_00.00_{moment:%Y%m%d-%H%M%S}.grib2")) == second
    assert Mrms().time_of(Path(f"MRMS_PrecipRate_00.00_{moment:%Y%m%d-%H%M%S}.grib2.gz")) == second


@given(st.text(max_size=16) | st.from_regex(r"[0-9]{11,15}", fullmatch=True))
def test_digits_are_a_date_or_nothing(text: str) -> None:
    stamp = parse_stamp(text)
    if stamp is not None:
        assert len(text) in {12, 14}
        assert "".join(re.findall("[0-9]", str(stamp))) == text.ljust(14, "0")


@pytest.mark.parametrize("text", ["201013010000", "2010082600", "20100826000060", "२०१००८२६००००", ""])
def test_what_is_no_date_is_none(text: str) -> None:
    assert parse_stamp(text) is None


@given(st.text(max_size=40))
def test_foreign_names_are_foreign(name: str) -> None:
    path = Path("folder") / (name.replace("/", "_").replace("\0", "_") or "x")
    for kind in (Knmi(), Fmi(), Mrms()):
        assert kind.time_of(path) is None


def test_times_given_by_users() -> None:
    expected = np.datetime64("2010-08-26T04:30:00", "s")
    assert parse_utc("2010-08-26T04:30", "--start") == expected
    assert parse_utc("2010-08-26 04:30:00Z", "--start") == expected
    assert parse_utc("2010-08-26", "--start") == np.datetime64("2010-08-26T00:00:00")
    for text in ("yesterday", "2010-08-26T04:30+02:00", "2010-13-01"):
        with pytest.raises(UserError, match="expected --end as a UTC time"):
            parse_utc(text, "--end")


def touch(folder: Path, *times: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for time in times:
        (folder / f"RAD_NL25_RAP_5min_{time}.h5").touch()


def test_frames_are_listed_in_the_order_of_time(tmp_path: Path) -> None:
    touch(tmp_path / "b", "201008260000", "201008260010")
    touch(tmp_path / "a", "201008260005")
    touch(tmp_path, "201008252355")
    (tmp_path / ".hidden").touch()
    listed = list_frames(tmp_path, Knmi())
    assert [str(stamp.time)[11:16] for stamp in listed] == ["23:55", "00:00", "00:05", "00:10"]
    some = list_frames(tmp_path, Knmi(), "2010-08-26T00:00", "2010-08-26T00:05")
    assert some == listed[1:3]
    with pytest.raises(UserError, match="2010-08-25T23:55:00 to 2010-08-26T00:10:00"):
        list_frames(tmp_path, Knmi(), start="2011-01-01")


def test_folders_that_are_no_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which is not there"):
        list_frames(tmp_path / "absent", Knmi())
    with pytest.raises(UserError, match=r"expected knmi files in .*, got none"):
        list_frames(tmp_path, Knmi())
    touch(tmp_path / "a", "201008260000")
    touch(tmp_path / "b", "201008260000")
    with pytest.raises(UserError, match="one file a time"):
        list_frames(tmp_path, Knmi())
    (tmp_path / "a" / "README.txt").touch()
    with pytest.raises(UserError, match=r"only knmi files in .*, got README\.txt"):
        list_frames(tmp_path, Knmi())
    with pytest.raises(UserError, match="which is a file"):
        list_frames(tmp_path / "a" / "README.txt", Knmi())


def test_the_time_step_is_the_most_frequent_one() -> None:
    assert time_step(stamps_at(0, 5, 10, 25, 30)) == 300
    with pytest.raises(UserError, match="several frames"):
        time_step(stamps_at(0))


def test_a_gap_is_refused_or_splits() -> None:
    stamps = stamps_at(0, 5, 10, 20, 25)
    with pytest.raises(UserError, match=r"every 300 s, got 600 s from 10\.h5 to 20\.h5"):
        number_runs(stamps, 300, 1, split_at_gaps=False)
    split = number_runs(stamps, 300, 1, split_at_gaps=True)
    assert runs(split) == [("0", 0), ("5", 0), ("10", 0), ("20", 1), ("25", 1)]


def test_a_frame_off_the_step_is_refused_or_splits() -> None:
    stamps = stamps_at(0, 5, 12, 17, 22)
    with pytest.raises(UserError, match=r"got 420 s from 5\.h5 to 12\.h5"):
        number_runs(stamps, 300, 1, split_at_gaps=False)
    split = number_runs(stamps, 300, 1, split_at_gaps=True)
    assert runs(split) == [("0", 0), ("5", 0), ("12", 1), ("17", 1), ("22", 1)]


@pytest.mark.parametrize("split_at_gaps", [False, True])
def test_a_pause_of_hours_always_splits(split_at_gaps: bool) -> None:
    stamps = stamps_at(0, 5, 185, 190, 10_003, 10_008)
    numbered = number_runs(stamps, 300, 1, split_at_gaps)
    assert runs(numbered) == [("0", 0), ("5", 0), ("185", 1), ("190", 1), ("10003", 2), ("10008", 2)]


def test_sessions_are_described() -> None:
    numbered = number_runs(stamps_at(0, 5, 185, 190, 200, 10_003, 10_008), 300, 1, split_at_gaps=True)
    gaps = session_gaps(numbered)
    assert [(one.path.stem, two.path.stem) for one, two in gaps] == [("5", "185"), ("200", "10003")]
    assert describe_sessions(gaps) == (
        "3 sessions, as the archive pauses for 3 h or more: 2020-02-28T23:05:00 to 2020-02-29T02:05:00 (3.0 h), "
        "2020-02-29T02:20:00 to 2020-03-06T21:43:00 (163.4 h)"
    )
    assert describe_sessions(gaps, shown=1).endswith("(3.0 h), 1 more")
    assert session_gaps(number_runs(stamps_at(*range(0, 1000, 5)), 300, 40, False)) == []  # 200 min apart, no pause


GRID = Grid((7, 5), 3000.0, -2000.0, (1000.0, -1000.5), "m", {"grid_mapping_name": "made_up", "parallel": 60.0})


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("frames of (7, 5) like the first, got (5, 7) in", {"shape": (5, 7)}),
        ("x0 3000.0 like the first, got 3002.0 in", {"x0": 3002.0}),
        ("y0 -2000.0 like the first, got 2000.0 in", {"y0": 2000.0}),
        ("pixel width 1000.0 like the first, got 1000.1 in", {"pixel_size": (1000.1, -1000.5)}),
        ("pixel height -1000.5 like the first, got 1000.5 in", {"pixel_size": (1000.0, 1000.5)}),
        ("units m like the first, got km in", {"units": "km"}),
        ("parallel 60.0 like the first, got 60.1 in", {"crs": {**GRID.crs, "parallel": 60.1}}),
        ("parallel 60.0 like the first, got None in", {"crs": {"grid_mapping_name": "made_up"}}),
        ("datum None like the first, got D in", {"crs": {**GRID.crs, "datum": "D"}}),
    ],
)
def test_frames_off_the_grid_of_the_first_are_refused(words: str, change: dict[str, Any]) -> None:
    frames = [(Path("a"), GRID, np.zeros(1)), (Path("b"), replace(GRID, **change), np.ones(1))]
    passed = on_one_grid(frames)
    assert next(passed) == 0.0
    with pytest.raises(UserError, match=re.escape(f"{words} b")):
        next(passed)


def test_rounding_in_a_header_is_forgiven() -> None:
    near = replace(GRID, x0=3000.5, pixel_size=(1000.0, -1000.5005), crs={**GRID.crs, "parallel": 60.00001})
    assert len(list(on_one_grid([(Path(name), grid, np.zeros(1)) for name, grid in (("a", GRID), ("b", near))]))) == 2


def test_every_nth_frame_of_each_run() -> None:
    stamps = stamps_at(0, 2, 4, 6, 8, 301, 303, 305)
    assert runs(number_runs(stamps, 120, 2, False)) == [("0", 0), ("4", 0), ("8", 0), ("301", 1), ("305", 1)]
    skipped = stamps_at(0, 4, 6, 8)
    assert runs(number_runs(skipped, 120, 2, False)) == [("0", 0), ("4", 0), ("8", 0)]
    lost = stamps_at(0, 2, 6, 8, 10, 12)
    with pytest.raises(UserError, match=r"every 240 s, got 480 s from 0\.h5 to 8\.h5"):
        number_runs(lost, 120, 2, False)
    assert runs(number_runs(lost, 120, 2, True)) == [("0", 0), ("8", 1), ("12", 1)]


@given(st.lists(st.integers(0, 400), min_size=2, max_size=40, unique=True), st.integers(1, 3))
def test_runs_are_unbroken_and_lose_nothing(minutes: list[int], frame_step: int) -> None:
    stamps = stamps_at(*sorted(minutes))
    numbered = number_runs(stamps, 60, frame_step, split_at_gaps=True)
    assert [stamp.time for stamp in numbered] == sorted({stamp.time for stamp in numbered})
    for one, two in pairwise(numbered):
        if one.run == two.run:
            assert two.time - one.time == np.timedelta64(60 * frame_step, "s")
        else:
            assert two.run > one.run
    if frame_step == 1:
        assert len(numbered) == len(stamps)
