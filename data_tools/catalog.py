"""SEVIR's CATALOG.csv, one row per event and image type, also after a trip through a spreadsheet.

A spreadsheet adds a byte-order mark, turns `2019-05-12 18:30:00` into `5/12/19 18:30`, loses `proj` to `#NAME?`,
writes whole numbers as `7.0`, adds columns and empty rows, and may separate with semicolons. All that is read. What
is not there or cannot be understood is refused with the line it stands in: a wrong guess here would silently exchange
one storm for another.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from data_tools.cli import UserError

REQUIRED = ("id", "file_name", "file_index", "img_type", "time_utc", "pct_missing")
"""Columns without which an event can be neither found, dated nor filtered. All others may be absent."""

_DATES = (
    "%Y-%m-%d %H:%M:%S",  # SEVIR's own
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%m/%d/%y %H:%M",  # a spreadsheet's, US order
    "%m/%d/%y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the catalogue.

    Attributes:
        id: event, `S<event_id>` of a reported storm or `R<digits>` drawn at random.
        file_name: HDF5 file, relative to the folder `data`.
        file_index: position of the event in that file.
        img_type: `vil`, `vis`, `ir069`, `ir107` or `lght`.
        time: nominal time of the middle frame, UTC, datetime64[s].
        pct_missing: share of missing pixels as the catalogue has it; NaN where the field is empty.
        minute_offsets: of the frames from `time`; empty where the catalogue does not tell.
        corner: (latitude, longitude) of the lower left corner in degrees; None where the catalogue does not tell.
    """

    id: str
    file_name: str
    file_index: int
    img_type: str
    time: np.datetime64
    pct_missing: float
    minute_offsets: tuple[float, ...] = ()
    corner: tuple[float, float] | None = None


def read_catalog(path: str | Path) -> list[Entry]:
    """All rows of the catalogue at `path`, in its order.

    Raises:
        UserError: no such file, no catalogue, missing columns (all are named) or a field that cannot be understood.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"expected a SEVIR catalogue at {path}, got no such file: put CATALOG.csv there")
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            return _parse(file, path)
        except csv.Error as error:
            raise UserError(f"expected a CSV catalogue, got {path} ({error}): download it again") from error


def _parse(lines: Iterable[str], path: Path) -> list[Entry]:
    iterator = iter(lines)
    header = next(iterator, "")
    delimiter = max(",;\t", key=header.count)
    columns = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    absent = [name for name in REQUIRED if name not in columns]
    if absent:
        raise UserError(
            f"expected the columns {', '.join(REQUIRED)} in {path}, got none named {', '.join(absent)}: "
            "use SEVIR's CATALOG.csv as published"
        )
    doubled = sorted(name for name, count in Counter(columns).items() if count > 1 and name in REQUIRED)
    if doubled:
        raise UserError(f"expected each column once in {path}, got {', '.join(doubled)} more than once: remove one")
    entries = []
    reader = csv.reader(iterator, delimiter=delimiter)
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue  # spreadsheets end in empty rows
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        try:
            entries.append(_entry(row))
        except ValueError as error:
            raise UserError(f"{error}, in {path} near line {reader.line_num + 1}: mend or remove the row") from error
    return entries


def _entry(row: Mapping[str, str]) -> Entry:
    short = [name for name in REQUIRED if name not in row]
    if short:
        raise ValueError(f"expected a field for each column, got none for {', '.join(short)}")
    for name in ("id", "file_name", "img_type"):
        if not row[name]:
            raise ValueError(f"expected a value of {name}, got an empty field")
    corner = (_number(row, "llcrnrlat"), _number(row, "llcrnrlon"))
    return Entry(
        id=row["id"],
        file_name=row["file_name"].replace("\\", "/"),
        file_index=_index(row["file_index"]),
        img_type=row["img_type"],
        time=parse_time(row["time_utc"]),
        pct_missing=_number(row, "pct_missing"),
        minute_offsets=_offsets(row.get("minute_offsets", "")),
        corner=None if np.isnan(corner).any() else corner,
    )


def parse_time(text: str) -> np.datetime64:
    """`2019-05-12 18:30:00` (also with T, Z, or without seconds) or `5/12/19 18:30`, month first, as datetime64[s].

    Raises:
        ValueError: neither of them, or not a date.
    """
    plain = text.strip().removesuffix("Z").removesuffix("+00:00").replace("T", " ")
    for pattern in _DATES:
        try:
            return np.datetime64(datetime.strptime(plain, pattern), "s")
        except ValueError:
            continue
    raise ValueError(f"expected time_utc like 2019-05-12 18:30:00 or 5/12/19 18:30, got {text!r}")


def _index(text: str) -> int:
    try:
        value = float(text)
        index = int(value)
    except (ValueError, OverflowError):
        value, index = 0.0, -1
    if index < 0 or index != value:
        raise ValueError(f"expected file_index as a whole number from 0, got {text!r}")
    return index


def _number(row: Mapping[str, str], name: str) -> float:
    """A decimal number, NaN for an empty or absent field or a spreadsheet's error value."""
    text = row.get(name, "")
    if not text or text.startswith("#"):
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected {name} as a number, got {text!r}") from None


def _offsets(text: str) -> tuple[float, ...]:
    """Colon separated minutes, `-120:-115:...:120`."""
    if not text or text.startswith("#"):
        return ()
    try:
        return tuple(float(part) for part in text.split(":"))
    except ValueError:
        raise ValueError(f"expected minute_offsets like -120:-115:-110, got {text[:40]!r}") from None


def select(
    entries: Iterable[Entry],
    img_type: str = "vil",
    *,
    after: np.datetime64 | None = None,
    until: np.datetime64 | None = None,
) -> list[Entry]:
    """The events that SEVIR's published loaders use, in their order.

    In this order: `after` < time <= `until`; nothing missing (`pct_missing` is 0; an empty field is not); the image
    type; an id that now stands in more than one row is dropped altogether (a known fault of SEVIR: none of the rows
    can be trusted); sorted by id as text, so that random events come before storms.
    """
    kept = [
        entry
        for entry in entries
        if (after is None or entry.time > after)
        and (until is None or entry.time <= until)
        and entry.pct_missing == 0.0
        and entry.img_type == img_type
    ]
    rows = Counter(entry.id for entry in kept)
    return sorted((entry for entry in kept if rows[entry.id] == 1), key=lambda entry: entry.id)
