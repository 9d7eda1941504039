"""A filled table: its cells beside the published ones, on the screen, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table as ScreenTable

from core.fitting import write_atomically
from core.intervals import Interval

Status = Literal["measured", "missing", "impossible", "failed"]


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands at a row and a column.

    Attributes:
        status: `measured`; `missing` an ingredient; `impossible` for the method; `failed`.
        ours: our value with its 95 % interval, which is NaN-free: (v, v, v) where there is one number; None where
            nothing was measured.
        published: the paper's value.
        source: paper and table of it.
        why: the command that makes what is missing, or the reason why there is no value.
        details: whatever else was measured, as JSON.
    """

    status: Status
    ours: Interval | None = None
    published: float | None = None
    source: str = ""
    why: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Filled:
    """A table with all its cells.

    Attributes:
        name, title: of the table.
        value: what the values are; printed above the table.
        column: what the columns are.
        columns: their headings.
        rows: label -> cell for each column.
        notes: what a reader must know to compare.
        lower_is_better: None where no direction is good.
        plotted: rows in the picture; all where empty.
    """

    name: str
    title: str
    value: str
    column: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Cell, ...]]
    notes: tuple[str, ...] = ()
    lower_is_better: bool | None = True
    plotted: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Commands that would make what is missing, each once, in the order of the table."""
        cells = [cell for row in self.rows.values() for cell in row]
        return list(dict.fromkeys(cell.why for cell in cells if cell.status == "missing"))


MARKS: Mapping[Status, str] = {"missing": "missing", "impossible": "-", "failed": "failed", "measured": ""}


def screen_table(filled: Filled) -> ScreenTable:
    """A markdown table: for each column our value [95 % interval] and the published one."""
    table = ScreenTable(title=f"{filled.title}: {filled.value}", box=box.MARKDOWN, title_justify="left")
    table.add_column("method", no_wrap=True)
    for heading in filled.columns:
        short = f"{filled.column} {heading}".strip()
        table.add_column(short, justify="right", no_wrap=True)
        table.add_column("published", justify="right", no_wrap=True, style="dim")
    for label, cells in filled.rows.items():
        texts = []
        for cell in cells:
            texts += [escape(shown(cell)), "" if cell.published is None else f"{cell.published:g}"]
        table.add_row(escape(label), *texts)
    return table


def shown(cell: Cell) -> str:
    """Our value as text, its interval behind it where there is one."""
    if cell.ours is None:
        return MARKS[cell.status]
    mean, low, high = cell.ours
    return f"{mean:.6g}" if low == high else f"{mean:.4g} [{low:.4g}, {high:.4g}]"


def as_json(filled: Filled, options: Mapping[str, Any]) -> dict[str, Any]:
    """The table as strict JSON: a row with method, column, value {value, ci95}, published and source for each cell."""
    rows = []
    for label, column, cell in _cells(filled):
        ours = None if cell.ours is None else {"value": cell.ours.mean, "ci95": [cell.ours.low, cell.ours.high]}
        row = asdict(cell) | {"method": label, filled.column.lower() or "column": column, "ours": ours}
        rows.append({key: row[key] for key in ("method", filled.column.lower() or "column", *asdict(cell))})
    head = {"table": filled.name, "title": filled.title, "value": filled.value, "options": dict(options)}
    return head | {"notes": list(filled.notes), "rows": rows, "missing": filled.missing()}


def as_csv(filled: Filled) -> str:
    """One line a cell; empty where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["method", filled.column.lower() or "column", "value", "low", "high", "published", "source", "status"]
    )
    for label, column, cell in _cells(filled):
        numbers = ("", "", "") if cell.ours is None else tuple(map(repr, cell.ours))
        published = "" if cell.published is None else repr(cell.published)
        writer.writerow([label, column, *numbers, published, cell.source, cell.status])
    return text.getvalue()


def _cells(filled: Filled) -> Sequence[tuple[str, str, Cell]]:
    return [
        (label, column, cell)
        for label, cells in filled.rows.items()
        for column, cell in zip(filled.columns, cells, strict=True)
    ]


def write(filled: Filled, options: Mapping[str, Any], json_path: Path, csv_path: Path) -> None:
    """Write both files, each whole or not at all."""
    text = json.dumps(as_json(filled, options), indent=1, allow_nan=False) + "\n"
    write_atomically(json_path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    write_atomically(csv_path, lambda temporary: temporary.write_text(as_csv(filled), encoding="utf-8"))


def write_several(
    name: str, title: str, tables: Sequence[Filled], options: Mapping[str, Any], json_path: Path, folder: Path
) -> str:
    """Write tables of the same cells, one for each of their scores: one JSON of all, a CSV and a picture of each.

    Returns:
        Names of the CSVs and pictures, for people.
    """
    commands = list(dict.fromkeys(command for table in tables for command in table.missing()))
    content = {"table": name, "title": title, "options": dict(options)}
    content |= {"tables": [as_json(table, {}) for table in tables], "missing": commands}
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(json_path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    for table in tables:
        path, csv_text = folder / f"{table.name}.csv", as_csv(table)
        write_atomically(path, lambda temporary, csv_text=csv_text: temporary.write_text(csv_text, encoding="utf-8"))
    return f"{folder / name}-{{{','.join(table.name.removeprefix(name + '-') for table in tables)}}}.csv and .png"


def exactly(value: float) -> Interval:
    """A number without an interval."""
    return Interval(value, value, value)
