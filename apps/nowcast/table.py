"""The evaluation's rows as a table for people and as strict JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from apps.nowcast.metrics.bootstrap import Estimate

TABLE_WIDTH = 112
"""Columns of text that the table needs so that nothing is cut off; a console of a pipe has 80."""

FEW_STEPS = 10
"""Methods with at most so many steps compete for the bold face."""

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


@dataclass(frozen=True, slots=True)
class Column:
    """How a metric is shown: its heading, its digits and which direction is good, or which value."""

    heading: str
    digits: int
    higher_is_better: bool
    ideal: float | None = None

    def badness(self, value: float) -> float:
        """Lower is better."""
        if self.ideal is not None:
            return abs(value - self.ideal)
        return -value if self.higher_is_better else value


COLUMNS: Mapping[str, Column] = {
    "hss": Column("HSS", 3, True),
    "csi": Column("CSI", 3, True),
    "csi4": Column("CSI-4", 3, True),
    "csi16": Column("CSI-16", 3, True),
    "crps": Column("CRPS", 4, False),
    "lpips": Column("LPIPS*", 3, False),
    "seconds_per_member": Column("s/member", 3, False),
}
"""The table's columns. The star: which perceptual distance it is stands in the caption."""

ENSEMBLE_COLUMNS: Mapping[str, Column] = {
    "crps_fair": Column("fair CRPS", 4, False),
    "rmse_of_mean": Column("RMSE of mean", 4, False),
    "spread_skill": Column("spread/RMSE", 3, False, 1.0),
    "outliers": Column("outliers", 3, False, 1.0),
}
"""The columns of the second table, of what ensembles alone have."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method's results.

    Attributes:
        method: its name, such as `ddim` or `spanlift`.
        supervision: `teacher` or `target` for learned solvers, else None.
        steps: sampling steps; None where there are none (persistence).
        nfe: network evaluations per member.
        scores: metric name -> estimate; names beyond `COLUMNS` go into the JSON only.
    """

    method: str
    supervision: str | None
    steps: int | None
    nfe: int
    scores: Mapping[str, Estimate]


def score_table(
    rows: Sequence[Row], *, title: str = "", caption: str = "", columns: Mapping[str, Column] = COLUMNS
) -> Table:
    """A rich table: the value, under it its 95 % interval; the best few-step method of every column in bold."""
    table = Table(title=title or None, caption=caption or None, header_style="bold", box=SIMPLE_HEAD, padding=0)
    table.add_column("method", no_wrap=True)
    table.add_column("NFE", justify="right", no_wrap=True)
    for column in columns.values():
        table.add_column(column.heading, justify="right", no_wrap=True)
    best = {name: best_few_step(rows, name, column) for name, column in columns.items()}
    for index, row in enumerate(rows):
        cells = [_cell(row.scores.get(name), column, index == best[name]) for name, column in columns.items()]
        table.add_row(_method(row), str(row.nfe), *cells)
    return table


def best_few_step(rows: Sequence[Row], metric: str, column: Column) -> int | None:
    """Index of the best row among those with 1 to `FEW_STEPS` steps; None where none has a value."""
    values = {
        index: column.badness(row.scores[metric].value)
        for index, row in enumerate(rows)
        if row.steps is not None and row.steps <= FEW_STEPS and metric in row.scores
    }
    values = {index: value for index, value in values.items() if not math.isnan(value)}
    return min(values, key=lambda index: values[index], default=None)


def _method(row: Row) -> Text:
    text = Text(row.method if row.steps is None else f"{row.method}, {row.steps} step{'s' if row.steps > 1 else ''}")
    if row.supervision:
        text.append(f"\n{row.supervision} supervised", style="dim")
    return text


def _cell(estimate: Estimate | None, column: Column, bold: bool) -> Text:
    if estimate is None or math.isnan(estimate.value):
        return Text("-", style="dim")
    text = Text()
    text.append(_number(estimate.value, column.digits), style="bold" if bold else "")
    if not math.isnan(estimate.low):
        low, high = _number(estimate.low, column.digits), _number(estimate.high, column.digits)
        text.append(f"\n{low} {high}", style="dim")
    return text


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and "0." in text[:3] else text


def row_as_json(row: Row) -> dict[str, Json]:
    """The row as a JSON object: scores as {"value": v, "ci95": [low, high]}, undefined numbers null."""
    head: dict[str, Json] = {"method": row.method, "supervision": row.supervision, "steps": row.steps, "nfe": row.nfe}
    return head | {name: estimate_as_json(estimate) for name, estimate in row.scores.items()}


def estimate_as_json(estimate: Estimate) -> Json:
    """{"value": v, "ci95": [low, high]}; null for what is not a finite number, since JSON has no NaN."""
    return {"value": _finite(estimate.value), "ci95": [_finite(estimate.low), _finite(estimate.high)]}


def evaluation_as_json(
    *, data: str, split: str, events: int, seed: int, rows: Sequence[Row], extra: Mapping[str, Json] | None = None
) -> dict[str, Json]:
    """The whole of `evaluation.json`; `extra` (name of the distance, comparisons, ...) stands between head and rows."""
    head: dict[str, Json] = {"data": data, "split": split, "events": events, "seed": seed}
    return head | dict(extra or {}) | {"rows": [row_as_json(row) for row in rows]}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
