"""The numbers that three papers report, from `published.json`, each with its source.

SpanLift, DyWeight (arXiv 2603.11607) and S4S (ICML 2025) and what they quote. The file also says where they disagree
with each other and what could not be taken over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("published.json")
PAPERS: Mapping[str, str] = {"spanlift": "SpanLift", "dyweight": "DyWeight", "s4s": "S4S"}
"""Keys of the papers, the one that is preferred first, and their names."""
COLUMNS = ("nfe", "step", "quantity", "score", "coefficients")
"""What the columns of a row may be."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a published table.

    Attributes:
        paper: a key of `PAPERS`.
        table: its number there.
        data: data set, and model where the data do not tell it.
        metric: what the values are, such as `fid`.
        method: as in `core.SOLVERS` where there is such a solver.
        label: as printed.
        by: what the columns are, one of `COLUMNS`.
        afs: whether the first step is analytic; None where the paper does not say.
        values: column -> value.
        schedule: of the time grid, where the table names one.
        base: the solver that a learned one is built on, where the table names one.
        setting: what sets the row apart from others of its method.
        note: anything else.
    """

    paper: str
    table: str
    data: str
    metric: str
    method: str
    label: str
    by: str
    afs: bool | None
    values: Mapping[str, float]
    schedule: str | None = None
    base: str | None = None
    setting: str | None = None
    note: str | None = None

    @property
    def source(self) -> str:
        return f"{PAPERS[self.paper]}, Table {self.table}"


@dataclass(frozen=True, slots=True)
class Number:
    """One published value and the row it stands in."""

    value: float
    row: Row


@dataclass(frozen=True, slots=True)
class Published:
    """All of the file.

    Attributes:
        papers: key -> title, identifier and what is said of the analytic first step.
        rows: of all tables.
        disagreements: `where` numbers contradict each other and `what` they are.
        not_transcribed: `paper`, `where` and `why`.
    """

    papers: Mapping[str, Mapping[str, str | None]]
    rows: tuple[Row, ...]
    disagreements: tuple[Mapping[str, str], ...]
    not_transcribed: tuple[Mapping[str, str], ...]

    def find(
        self,
        data: str,
        method: str,
        column: int | str,
        metric: str = "fid",
        *,
        base: str | None = None,
        setting: str | None = None,
        schedule: str | None = None,
        table: str | None = None,
    ) -> Number | None:
        """A value, from the first paper of `PAPERS` that has one; None where none has.

        Args:
            data, method, metric: see `Row`.
            column: number of network calls, or another heading.
            base, setting: of the row; None takes rows without one.
            schedule, table: of the row; None takes any.
        """
        for paper in PAPERS:
            for row in self.rows:
                wanted = (paper, data, method, metric, base, setting)
                fits = (row.paper, row.data, row.method, row.metric, row.base, row.setting) == wanted
                fits = fits and schedule in (None, row.schedule) and table in (None, row.table)
                if fits and str(column) in row.values:
                    return Number(row.values[str(column)], row)
        return None


def load_published(path: Path = PATH) -> Published:
    """Read and check the file.

    Raises:
        ValueError: no such file, no JSON, or something in it that is not what `Row` describes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"expected published numbers as JSON in {path}, got {error}; install the package again") from (
            error
        )
    _check(isinstance(content, dict) and content.keys() == {f.name for f in fields(Published)}, "four lists", content)
    papers = content["papers"]
    _check(isinstance(papers, dict) and papers.keys() == PAPERS.keys(), f"papers {', '.join(PAPERS)}", papers)
    remarks = {name: content[name] for name in ("disagreements", "not_transcribed")}
    for name, keys in (("disagreements", {"where", "what"}), ("not_transcribed", {"paper", "where", "why"})):
        _check(isinstance(remarks[name], list), f"a list of {name}", remarks[name])
        for remark in remarks[name]:
            fits = isinstance(remark, dict) and remark.keys() == keys
            _check(fits and all(isinstance(text, str) and text for text in remark.values()), f"{keys} as text", remark)
    _check(isinstance(content["rows"], list) and content["rows"], "a list of rows", content["rows"])
    rows = tuple(_row(item) for item in content["rows"])
    return Published(papers, rows, tuple(remarks["disagreements"]), tuple(remarks["not_transcribed"]))


def _row(item: Any) -> Row:
    _check(isinstance(item, dict), "a row as an object", item)
    required = {f.name for f in fields(Row)} - {"schedule", "base", "setting", "note"}
    lacking, foreign = required - item.keys(), item.keys() - {f.name for f in fields(Row)}
    _check(not lacking and not foreign, f"a row with {', '.join(sorted(required))}", sorted(item))
    texts = {name: item[name] for name in item if name not in {"afs", "values"}}
    for name, text in texts.items():
        _check(isinstance(text, str) and text, f"{name} as text", text)
    _check(item["paper"] in PAPERS, f"a paper among {', '.join(PAPERS)}", item["paper"])
    _check(item["by"] in COLUMNS, f"columns among {', '.join(COLUMNS)}", item["by"])
    _check(item["afs"] is None or isinstance(item["afs"], bool), "afs as true, false or null", item["afs"])
    values = item["values"]
    _check(isinstance(values, dict) and values, "values by column", values)
    for column, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        _check(number, f"a number in column {column}", value)
        _check(item["by"] not in {"nfe", "step"} or column.isdecimal(), f"a whole number as {item['by']}", column)
    return Row(**texts, afs=item["afs"], values={column: float(value) for column, value in values.items()})


def _check(holds: object, expected: str, got: object) -> None:
    if not holds:
        shown = repr(got)
        raise ValueError(
            f"expected {expected} among the published numbers, got {shown if len(shown) < 80 else shown[:77] + '...'}; "
            "mend the file or install the package again"
        )
