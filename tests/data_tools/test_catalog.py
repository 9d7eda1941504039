"""The catalogue reader: both date styles, dirty files, refused files; the selection of events."""

from __future__ import annotations

import csv
import io
import itertools
import math
import string
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_tools.catalog import REQUIRED, Entry, parse_time, read_catalog, select
from data_tools.cli import UserError

on_tmp_path = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

names = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)
entries = st.builds(
    Entry,
    id=names,
    file_name=names.map(lambda name: f"vil/2019/{name}.h5"),
    file_index=st.integers(0, 9999),
    img_type=st.sampled_from(["vil", "vis", "ir069", "ir107", "lght"]),
    # whole minutes, as a spreadsheet cuts the seconds, in the century that two digits of a year tell
    time=st.datetimes(datetime(1970, 1, 1), datetime(2068, 1, 1)).map(
        lambda time: np.datetime64(time, "m").astype("M8[s]")
    ),
    pct_missing=st.one_of(st.just(0.0), st.floats(0.0, 100.0)),
    minute_offsets=st.lists(st.integers(-150, 150).map(float), max_size=5).map(tuple),
    corner=st.one_of(st.none(), st.tuples(st.floats(-90.0, 90.0), st.floats(-180.0, 180.0))),
)


def write(entries: list[Entry], *, dirty: bool = False, delimiter: str = ",", order: list[str] | None = None) -> str:
    """Entries as SEVIR writes them or, `dirty`, as a spreadsheet leaves them."""
    columns = order or [*REQUIRED, "minute_offsets", "llcrnrlat", "llcrnrlon", "proj"]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(columns + (["mid_lat", "mid_lon"] if dirty else []))
    for entry in entries:
        time: Any = entry.time.item()
        latitude, longitude = entry.corner or ("", "")
        fields = {
            "id": entry.id,
            "file_name": entry.file_name,
            "file_index": f"{entry.file_index}.0" if dirty else entry.file_index,
            "img_type": entry.img_type,
            "time_utc": f"{time.month}/{time.day}/{time:%y} {time.hour}:{time:%M}"
            if dirty
            else f"{time:%Y-%m-%d %H:%M:%S}",
            "pct_missing": repr(entry.pct_missing),
            "minute_offsets": ":".join(f"{offset:g}" for offset in entry.minute_offsets),
            "llcrnrlat": latitude,
            "llcrnrlon": longitude,
            "proj": "#NAME?" if dirty else "+proj=laea +lat_0=38 +lon_0=-98",
        }
        writer.writerow([fields[name] for name in columns] + (["1.5", ""] if dirty else []))
    if dirty:
        writer.writerow([""] * (len(columns) + 2))
    return ("\ufeff" if dirty else "") + text.getvalue()


@given(rows=st.lists(entries, max_size=6), dirty=st.booleans(), delimiter=st.sampled_from(",;\t"), data=st.data())
@on_tmp_path
def test_what_is_written_is_read(
    tmp_path: Path, rows: list[Entry], dirty: bool, delimiter: str, data: st.DataObject
) -> None:
    order = data.draw(st.permutations([*REQUIRED, "minute_offsets", "llcrnrlat", "llcrnrlon", "proj"]))
    path = tmp_path / "CATALOG.csv"
    path.write_text(write(rows, dirty=dirty, delimiter=delimiter, order=order), encoding="utf-8")
    assert read_catalog(path) == rows


@given(absent=st.sets(st.sampled_from(REQUIRED), min_size=1))
@on_tmp_path
def test_absent_columns_are_all_named(tmp_path: Path, absent: set[str]) -> None:
    path = tmp_path / "CATALOG.csv"
    path.write_text(",".join([*(name for name in REQUIRED if name not in absent), "proj"]) + "\n")
    with pytest.raises(UserError) as error:
        read_catalog(path)
    complaint = str(error.value).split("got none named")[1]
    assert all((name in complaint) == (name in absent) for name in REQUIRED)


@given(
    content=st.one_of(
        st.binary(max_size=80),
        st.text(max_size=80).map(lambda rest: ",".join(REQUIRED).encode() + b"\n" + rest.encode()),
    )
)
@on_tmp_path
def test_any_file_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "CATALOG.csv"
    path.write_bytes(content)
    complaint = None
    try:
        rows = read_catalog(path)
    except UserError as error:
        rows, complaint = [], str(error)
    assert complaint is None or str(path) in complaint
    assert all(row.id and row.file_index >= 0 and not np.isnat(row.time) for row in rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2019-05-12 18:30:00", "2019-05-12T18:30:00"),
        ("2019-05-12T18:30:00Z", "2019-05-12T18:30:00"),
        ("2019-05-12 18:30", "2019-05-12T18:30:00"),
        ("2017-12-31 23:59:01", "2017-12-31T23:59:01"),
        ("5/12/19 18:30", "2019-05-12T18:30:00"),  # month first
        ("12/5/2019 0:05", "2019-12-05T00:05:00"),
        ("11/30/19 7:00:30", "2019-11-30T07:00:30"),
    ],
)
def test_times_of_both_styles(text: str, expected: str) -> None:
    assert parse_time(text) == np.datetime64(expected)


@pytest.mark.parametrize("text", ["", "yesterday", "30/11/19 7:00", "2019-02-30 00:00:00", "43597.77", "5/12/19"])
def test_times_of_no_style_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected time_utc"):
        parse_time(text)


ROW = dict.fromkeys(REQUIRED, "") | {
    "id": "S1",
    "file_name": "vil/a.h5",
    "file_index": "3",
    "img_type": "vil",
    "time_utc": "2019-05-12 18:30:00",
    "pct_missing": "0",
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("file_name", ""),
        ("file_index", "-1"),
        ("file_index", "1.5"),
        ("file_index", "inf"),
        ("file_index", "first"),
        ("time_utc", "12.05.2019"),
        ("pct_missing", "none"),
    ],
)
def test_a_broken_field_is_refused_with_its_line(tmp_path: Path, field: str, value: str) -> None:
    path = tmp_path / "CATALOG.csv"
    lines = [",".join(REQUIRED), ",".join(ROW.values()), ",".join((ROW | {field: value}).values())]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=rf"{field}.*line 3"):
        read_catalog(path)


def test_a_short_row_and_a_doubled_column_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "CATALOG.csv"
    path.write_text(",".join(REQUIRED) + "\nS1,vil/a.h5\n")
    with pytest.raises(UserError, match=r"file_index, img_type.*line 2"):
        read_catalog(path)
    path.write_text(",".join([*REQUIRED, "id"]) + "\n")
    with pytest.raises(UserError, match="id more than once"):
        read_catalog(path)
    with pytest.raises(UserError, match="no such file"):
        read_catalog(tmp_path / "nowhere.csv")


def test_an_empty_share_of_missing_pixels_is_not_zero(tmp_path: Path) -> None:
    path = tmp_path / "CATALOG.csv"
    path.write_text(",".join(REQUIRED) + "\n" + ",".join((ROW | {"pct_missing": ""}).values()) + "\n")
    (entry,) = read_catalog(path)
    assert math.isnan(entry.pct_missing)
    assert select([entry]) == []


def entry(
    name: str, time: str = "2019-01-01T00:00:00", missing: float = 0.0, kind: str = "vil", index: int = 0
) -> Entry:
    return Entry(name, "vil/a.h5", index, kind, np.datetime64(time), missing)


def test_events_come_in_the_order_of_their_ids_as_text() -> None:
    rows = [entry("S9"), entry("S10"), entry("R2"), entry("R11")]
    assert [row.id for row in select(rows)] == ["R11", "R2", "S10", "S9"]


def test_doubled_ids_go_altogether_but_after_the_other_filters() -> None:
    rows = [
        entry("S1"),
        entry("S1", index=1),
        entry("S2"),
        entry("S2", missing=0.3),
        entry("S3"),
        entry("S3", kind="vis"),
    ]
    assert [row.id for row in select(rows)] == ["S2", "S3"]


def test_dates_exclude_the_first_and_include_the_last() -> None:
    rows = [entry(f"S{month}", f"2019-0{month}-01T00:00:00") for month in (1, 2, 3, 4)]
    chosen = select(rows, after=np.datetime64("2019-01-01"), until=np.datetime64("2019-03-01"))
    assert [row.id for row in chosen] == ["S2", "S3"]


def test_other_image_types_can_be_chosen() -> None:
    assert [row.id for row in select([entry("S1"), entry("S2", kind="ir107")], "ir107")] == ["S2"]


def test_the_real_catalogue_out_of_a_spreadsheet(shared: Path) -> None:
    rows = read_catalog(shared / "sevir" / "catalog_partial.csv")
    assert len(rows) == 851
    first = rows[0]
    assert (first.id, first.file_index, first.time) == ("S834603", 0, np.datetime64("2019-05-12T18:30:00"))
    assert first.corner == (29.86291091, -100.8555301)
    assert {len(row.minute_offsets) for row in rows} == {49}
    chosen = select(rows)
    assert len(chosen) == 525
    assert all(one.id < two.id for one, two in itertools.pairwise(chosen))
