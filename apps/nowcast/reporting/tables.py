"""Tables of the report: scores with intervals, paired differences, parts of the events, what the scores mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from apps.nowcast.comparison import PAIRED
from apps.nowcast.filling import filling_lines
from apps.nowcast.metrics.bootstrap import Estimate
from apps.nowcast.reporting.axes import MINUS
from apps.nowcast.reporting.html import Html, element, joined, scrolling
from apps.nowcast.table import COLUMNS, ENSEMBLE_COLUMNS, FEW_STEPS, Column, Json, Row, best_few_step
from apps.nowcast.verification.definitions import SCORES
from apps.nowcast.verification.results import Evaluation

_NONE = "\N{EN DASH}"


def table(label: str, caption: str, head: Sequence[object], rows: Sequence[Sequence[object]]) -> Html:
    """A table whose first column names its rows, in a box that scrolls."""
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    heading = element("thead", element("tr", *(element("th", cell, scope="col") for cell in head)))
    return scrolling(
        element("table", element("caption", element("span", caption)), heading, element("tbody", *body)), label
    )


def score_tables(evaluation: Evaluation) -> Html:
    """The tables of the command, with all methods."""
    rows, cluster = evaluation.rows, evaluation.cluster
    caption = (
        f"Small: 95 % intervals over {cluster}s. Bold: the best of its column among samplers of at most {FEW_STEPS} "
        f"steps; methods without a network do not compete. CRPS of [0, 1] values. * {evaluation.scope.distance}"
    )
    parts = [table("Scores", caption, ["method", "NFE", *_headings(COLUMNS)], _cells(rows, COLUMNS))]
    if evaluation.ensembles:
        chosen = {s.method.label: rows[s.method.label] for s in evaluation.ensembles}
        caption = (
            f"Up to {evaluation.members} members. Spread/RMSE and outliers, the share of wet pixels whose truth no two "
            "members enclose over that of a calibrated ensemble, are 1 where the ensemble is calibrated."
        )
        cells = _cells(chosen, ENSEMBLE_COLUMNS)
        parts += [
            element("h3", "Ensembles", id="ensembles"),
            table("Ensemble scores", caption, ["method", "NFE", *_headings(ENSEMBLE_COLUMNS)], cells),
        ]
    if evaluation.fillings:
        notes = [element("li", line) for line in filling_lines(evaluation.fillings)]
        parts.append(element("ul", *notes))
    return joined(*parts)


def _headings(columns: Mapping[str, Column]) -> list[Html]:
    return [joined(column.heading, element("small", f"{_good(column)} is good")) for column in columns.values()]


def _good(column: Column) -> str:
    if column.ideal is not None:
        return f"{column.ideal:g}"
    return "high" if column.higher_is_better else "low"


def _cells(rows: Mapping[str, Row], columns: Mapping[str, Column]) -> list[list[object]]:
    """A row for each label, by which charts have the method too."""
    best = {name: best_few_step(list(rows.values()), name, column) for name, column in columns.items()}
    return [
        [
            label,
            str(row.nfe),
            *(_estimate(row.scores.get(name), column.digits, best[name] == k) for name, column in columns.items()),
        ]
        for k, (label, row) in enumerate(rows.items())
    ]


def _estimate(estimate: Estimate | None, digits: int, best: bool = False, sign: str = "") -> Html:
    if estimate is None or not math.isfinite(estimate.value):
        return element("span", _NONE, aria_label="none")
    value = _number(estimate.value, digits, sign)
    shown = element("strong", value) if best else value
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return joined(shown)
    ends = f"{_number(estimate.low, digits, sign)} to {_number(estimate.high, digits, sign)}"
    return joined(shown, element("small", ends))


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f}".replace("-", MINUS)


def difference_tables(evaluation: Evaluation) -> Html | None:
    """Paired differences: from the baseline where one is named, of solvers from DDIM and among themselves."""
    parts = []
    for title, rows in (
        (f"Differences from {evaluation.baseline}", evaluation.from_baseline),
        ("Differences at equal numbers of steps", evaluation.comparisons),
    ):
        if rows:
            told = (
                "Method minus reference on the same events; small: 95 % intervals. A difference counts as better or "
                "worse where its interval leaves out 0."
            )
            head = ["method", "minus", *(heading for heading, _ in PAIRED.values())]
            parts += [element("h3", title), table(title, told, head, [_difference(row) for row in rows])]
    return joined(*parts) if parts else None


def _difference(row: Mapping[str, Json]) -> list[object]:
    cells: list[object] = [row["method"], row["reference"]]
    for name, (_, digits) in PAIRED.items():
        found = cast("dict[str, Any]", row[name])
        value, low, high = (math.nan if part is None else part for part in (found["value"], *found["ci95"]))
        cell = _estimate(Estimate(value, low, high), digits, sign="+")
        column = {**COLUMNS, **ENSEMBLE_COLUMNS}[name]
        if column.ideal is None and (low > 0 or high < 0):
            good = (low > 0) == column.higher_is_better
            cell = joined(cell, element("small", "better" if good else "worse", class_="better" if good else "worse"))
        cells.append(cell)
    return cells


def parts_tables(parts: Mapping[str, Json]) -> Html | None:
    """Scores on parts of the events: kind -> part -> {events, methods}, as in the JSON."""
    shown = {name: column for name, column in COLUMNS.items() if name != "seconds_per_member"}
    made = []
    for kind, by_name in parts.items():
        rows: list[list[object]] = []
        for name, part in cast("dict[str, Any]", by_name).items():
            for label, scores in part["methods"].items():
                found = {metric: _from_json(scores[metric], part["events"]) for metric in shown}
                cells = [_estimate(found[metric], column.digits) for metric, column in shown.items()]
                rows.append([joined(name, element("small", _counted(part["events"]))), label, *cells])
        title = f"By {kind}"
        head = ["events", "method", *_headings(shown)]
        made += [element("h3", title), table(title, f"Scores by {kind}; small: 95 % intervals.", head, rows)]
    return joined(*made) if made else None


def _counted(events: int) -> str:
    return f"{events} event{'' if events == 1 else 's'}"


def _from_json(found: Any, events: int) -> Estimate:
    """One event has no interval."""
    ends = found["ci95"] if events > 1 else (None, None)
    return Estimate(*(math.nan if part is None else part for part in (found["value"], *ends)))


def definitions() -> Html:
    """All scores with formula, range, best value and reference, folded."""
    rows = [[n, s.form, s.formula, s.range, s.best, s.reference] for n, s in SCORES.items()]
    told = (
        "a hits, b false alarms, c misses, d correct negatives; an event is a value at or above the threshold; sums "
        "over pixels and events come first. x_i are n members, m their mean, y the truth."
    )
    head = ["score", "of", "formula", "range", "best", "reference"]
    return element(
        "details",
        element("summary", "Definitions of all scores"),
        table("Definitions", told, head, rows),
        class_="definitions",
    )
