"""The picture of a table: our values beside the published ones on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from apps.imagegen.tables.table import Cell, Filled
from core.fitting import write_atomically

PANEL = (5.6, 4.4)  # inches
LEGEND = 2.4
WIDE_RANGE = 8.0
"""Values that span more than this factor are drawn on a logarithmic scale."""


def plot_table(filled: Filled, path: Path) -> None:
    """Write a PNG: ours on the left with 95 % intervals, published on the right where there are numbers.

    Lines over the columns where those are numbers, else bars. A panel without a value says so.
    """
    rows = {label: filled.rows[label] for label in filled.plotted or filled.rows}
    published = any(cell.published is not None for cells in rows.values() for cell in cells)
    panels = 2 if published else 1
    figure = Figure(figsize=(PANEL[0] * panels + LEGEND, PANEL[1]), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    numeric = all(heading.isdecimal() for heading in filled.columns) and len(filled.columns) > 1
    draw = _lines if numeric else _bars
    draw(axes[0], filled, {label: [_ours(cell) for cell in cells] for label, cells in rows.items()})
    axes[0].set_title("ours, 95 % intervals", fontsize=10)
    if published:
        draw(axes[1], filled, {label: [_published(cell) for cell in cells] for label, cells in rows.items()})
        axes[1].set_title("published", fontsize=10)
    _scale(axes[0], rows)
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    axes[0].set_ylabel(filled.value, fontsize=9)
    figure.suptitle(filled.title, fontsize=11)
    write_atomically(path, lambda part: figure.savefig(part, format="png"))


Point = tuple[float, float, float]
"""Value and interval, NaN where there is none."""
NAN = float("nan")
NOTHING: Point = (NAN, NAN, NAN)


def _ours(cell: Cell) -> Point:
    return NOTHING if cell.ours is None else (cell.ours.mean, cell.ours.low, cell.ours.high)


def _published(cell: Cell) -> Point:
    return NOTHING if cell.published is None else (cell.published, cell.published, cell.published)


def _lines(axes: Axes, filled: Filled, rows: Mapping[str, Sequence[Point]]) -> None:
    x = np.array([int(heading) for heading in filled.columns])
    for label, colour in zip(rows, _colours(len(rows)), strict=True):
        value, low, high = np.array(rows[label]).T
        axes.errorbar(
            x, value, yerr=np.maximum([value - low, high - value], 0), color=colour, marker="o", ms=4, lw=1.2,
            capsize=2, label=label,
        )  # fmt: skip
    axes.set_xticks(x)
    axes.set_xlabel(filled.column, fontsize=9)
    _finish(axes, rows)


def _bars(axes: Axes, filled: Filled, rows: Mapping[str, Sequence[Point]]) -> None:
    width = 0.8 / len(rows)
    places = np.arange(len(filled.columns))
    for index, (label, colour) in enumerate(zip(rows, _colours(len(rows)), strict=True)):
        value, low, high = np.array(rows[label]).T
        error = np.nan_to_num(np.maximum([value - low, high - value], 0))
        axes.bar(places + (index + 0.5) * width - 0.4, value, width, yerr=error, color=colour, capsize=2, label=label)
    axes.set_xticks(places, [f"{filled.column} {heading}".strip() for heading in filled.columns], fontsize=8)
    axes.axhline(0, color="#777777", lw=0.6)
    _finish(axes, rows)


def _finish(axes: Axes, rows: Mapping[str, Sequence[Point]]) -> None:
    axes.grid(alpha=0.25, lw=0.5)
    axes.tick_params(labelsize=8)
    if not np.isfinite([point[0] for points in rows.values() for point in points]).any():
        axes.text(0.5, 0.5, "nothing measured yet", transform=axes.transAxes, ha="center", color="#777777")


def _scale(axes: Axes, rows: Mapping[str, Sequence[Cell]]) -> None:
    """Logarithmic where all values are positive and far apart; the panels share it."""
    points = [point for cells in rows.values() for cell in cells for point in (_ours(cell), _published(cell))]
    values = np.array([value for value, _, _ in points if np.isfinite(value)])
    if len(values) and values.min() > 0 and values.max() > WIDE_RANGE * values.min():
        axes.set_yscale("log")


def _colours(count: int) -> list[tuple[float, ...]]:
    if count <= 10:
        return [colormaps["tab10"](index) for index in range(count)]
    return [colormaps["turbo"](share) for share in np.linspace(0.05, 0.95, count)]
