"""Charts as inline SVG: text that can be selected, colours that the page's style decides, and the numbers as a table.

A series is told apart by colour, dash and marker together. Each point carries its value as a tooltip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from apps.nowcast.reporting.axes import Axis, number
from apps.nowcast.reporting.html import Html, element, identifier, joined, scrolling

SERIES = 16
"""Series that a chart has room for; the style knows so many."""

_WIDTH, _HEIGHT = 360, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 40
_MARKED = 30  # most points of a series that have markers


@dataclass(frozen=True)
class Series:
    """Values with the ends of their intervals, all (points,), NaN where unknown; `number` decides the look, below 0 is
    what others are measured by."""

    number: int
    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @property
    def known(self) -> np.ndarray:
        return np.isfinite(self.x) & np.isfinite(self.y)

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), the value itself where there is none."""
        low = self.y if self.low is None else np.where(np.isfinite(self.low), self.low, self.y)
        high = self.y if self.high is None else np.where(np.isfinite(self.high), self.high, self.y)
        return low, high


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: what is drawn, with its unit.
        x_label: of the axis below.
        series: what is drawn; those without a known value are left out.
        x_ticks: (value, label); round numbers where None.
        x_told: what a value of the axis below that has no tick is called.
        log_x, log_y: logarithmic axes.
        level: value of a dashed horizontal line, such as that of a perfect forecast.
        diagonal: whether a dashed line marks y = x.
        bars: whether intervals are bars at each point; else bands.
        joined: whether points of a series are joined.
        point_told: where x is a result too, as in ROC, what the k-th point is called: a column of the table each.
    """

    title: str
    x_label: str
    series: Sequence[Series]
    x_ticks: Sequence[tuple[float, str]] | None = None
    x_told: Callable[[float], str] = number
    log_x: bool = False
    log_y: bool = False
    level: float | None = None
    diagonal: bool = False
    bars: bool = False
    joined: bool = True
    point_told: Callable[[int], str] | None = None

    @property
    def drawn(self) -> list[Series]:
        return [series for series in self.series if series.known.any()]


@dataclass(frozen=True)
class Group:
    """Charts under one heading, with what to say of them."""

    title: str
    note: str
    panels: Sequence[Panel] = field(default_factory=tuple)

    @property
    def drawn(self) -> list[Panel]:
        return [panel for panel in self.panels if panel.drawn]


def charts(groups: Iterable[Group], *, switched: bool = True) -> Html:
    """Groups with anything to draw: heading, note, legend, charts, and their numbers folded away; `switched` where the
    page's switches of methods hide lines."""
    parts = []
    for group in groups:
        if not group.drawn:
            continue
        figures = [
            element("figure", element("figcaption", panel.title), draw(panel), class_="chart") for panel in group.drawn
        ]
        parts.append(
            element(
                "section",
                element("h3", group.title, id=f"charts-{identifier(group.title)}"),
                element("p", group.note) if group.note else None,
                legend(group.drawn),
                element("div", *figures, class_="charts"),
                _numbers(group),
                class_="group switched" if switched else "group",
            )
        )
    return joined(*parts)


def legend(panels: Sequence[Panel]) -> Html:
    """The series of some charts, each with its sign."""
    series = {each.label: each.number for panel in panels for each in panel.drawn}
    ordered = sorted(series.items(), key=lambda item: item[1])
    signs = [element("li", sign(look), label, class_=_look(look)) for label, look in ordered]
    return element("ul", *signs, class_="legend", aria_label="Lines and their methods")


def sign(look: int) -> Html:
    """How a series looks, for a legend."""
    line = element("path", d="M2 7H28", class_="line")
    return element("svg", line, _marker(look, 15, 7), viewBox="0 0 30 14", aria_hidden="true", class_="sign")


def draw(panel: Panel) -> Html:
    """A chart."""
    drawn = panel.drawn
    x_values = np.concatenate([each.x[each.known] for each in drawn])
    x = Axis.of(x_values, _LEFT, _WIDTH - _RIGHT, logarithmic=panel.log_x, ticks=panel.x_ticks)
    y = Axis.of(_reach(panel, drawn), _HEIGHT - _BOTTOM, _TOP, logarithmic=panel.log_y)
    parts = [_frame(panel, x, y)]
    if panel.level is not None:
        parts.append(_path([(x.start, y.place(panel.level)), (x.end, y.place(panel.level))], "ideal"))
    if panel.diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        parts.append(_path([(x.place(end), y.place(end)) for end in (low, high)], "ideal"))
    parts += [_series(each, x, y, panel) for each in drawn]
    return element(
        "svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=f"{panel.title}. {_told(panel)}"
    )


def _reach(panel: Panel, drawn: Sequence[Series]) -> np.ndarray:
    """Values that the axis must hold; a wide interval may be cut off, a value may not."""
    values = np.concatenate([each.y[each.known] for each in drawn])
    if panel.level is not None:
        values = np.append(values, panel.level)
    if panel.log_y:
        return values
    ends = np.concatenate([np.concatenate(each.interval)[np.tile(each.known, 2)] for each in drawn])
    size = float(np.ptp(values)) or max(float(np.abs(values).max()), 1e-6)
    return np.append(values, ends.clip(values.min() - 2 * size, values.max() + 2 * size))


def _frame(panel: Panel, x: Axis, y: Axis) -> Html:
    parts = []
    for value, label in y.ticks:
        place = f"{y.place(value):.1f}"
        parts.append(element("path", d=f"M{_LEFT} {place}H{_WIDTH - _RIGHT}", class_="grid"))
        parts.append(element("text", label, x=_LEFT - 5, y=place, dy="0.35em", class_="end"))
    for value, label in _sparse(x):
        place = f"{x.place(value):.1f}"
        parts.append(element("path", d=f"M{place} {_HEIGHT - _BOTTOM}v4", class_="axis"))
        parts.append(element("text", label, x=place, y=_HEIGHT - _BOTTOM + 16, class_="middle"))
    parts.append(element("path", d=f"M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}", class_="axis"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(element("text", panel.x_label, x=middle, y=_HEIGHT - 6, class_="middle label"))
    return joined(*parts)


def _sparse(axis: Axis) -> list[tuple[float, str]]:
    """Ticks whose labels do not touch."""
    kept: list[tuple[float, str]] = []
    free = -np.inf
    for value, label in sorted(axis.ticks, key=lambda tick: axis.place(tick[0])):
        half = 3.4 * len(label) + 3
        if axis.place(value) - half >= free:
            kept.append((value, label))
            free = axis.place(value) + half
    return kept


def _series(series: Series, x: Axis, y: Axis, panel: Panel) -> Html:
    usable = series.known & ((series.x > 0) | (not panel.log_x)) & ((series.y > 0) | (not panel.log_y))
    places = {k: (x.place(float(series.x[k])), y.place(float(series.y[k]))) for k in np.flatnonzero(usable).tolist()}
    low, high = series.interval
    parts: list[Html] = []
    for run in _runs(list(places)):
        if panel.bars:
            for k in run:
                ends = [(places[k][0], y.place(float(end[k]))) for end in (low, high)]
                parts.append(_path(ends, "bar"))
        elif len(run) > 1 and series.low is not None:
            above = [(places[k][0], y.place(float(high[k]))) for k in run]
            below = [(places[k][0], y.place(float(low[k]))) for k in reversed(run)]
            parts.append(_path(above + below, "band"))
        if panel.joined and len(run) > 1:
            parts.append(_path([places[k] for k in run], "line"))
    if len(places) <= _MARKED:
        for k, place in places.items():
            title = element("title", f"{series.label}: {_value(series, k)}")
            parts.append(element("g", _marker(series.number, *place), title))
    return element("g", *parts, class_=_look(series.number))


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Numbers that follow each other without a gap."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return runs


def _path(points: Sequence[tuple[float, float]], look: str) -> Html:
    return element("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), class_=look)


def _marker(look: int, x: float, y: float) -> Html:
    shapes = (
        f"M{x - 3:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
        f"M{x - 2.8:.1f} {y - 2.8:.1f}h5.6v5.6h-5.6z",
        f"M{x:.1f} {y - 3.8:.1f}l3.6 6.4h-7.2z",
        f"M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z",
    )
    return element("path", d=shapes[look % len(shapes)], class_="marker")


def _look(look: int) -> str:
    return "truth" if look < 0 else f"s{look % SERIES}"


def _value(series: Series, k: int) -> str:
    shown = number(float(series.y[k]))
    if series.low is None or series.high is None or not np.isfinite(series.low[k]):
        return shown
    return f"{shown} [{number(float(series.low[k]))}, {number(float(series.high[k]))}]"


def _told(panel: Panel) -> str:
    """The chart in words: where each series begins and ends."""
    texts = []
    for each in panel.drawn:
        places = np.flatnonzero(each.known)
        first, last = (
            f"{number(float(each.y[k]))} at {_tick(panel, float(each.x[k]))}" for k in (places[0], places[-1])
        )
        texts.append(f"{each.label}: {first}" + (f" to {last}" if len(places) > 1 else ""))
    return f"By {panel.x_label}. " + "; ".join(texts) + "."


def _tick(panel: Panel, value: float) -> str:
    return dict(panel.x_ticks or ()).get(value) or panel.x_told(value)


def _numbers(group: Group) -> Html:
    """What is drawn as a table, folded."""
    tables = []
    for panel in group.drawn:
        heads, lines = _by_place(panel) if panel.point_told is None else _by_point(panel, panel.point_told)
        head = [element("th", "method", scope="col"), *(element("th", told, scope="col") for told in heads)]
        rows = [
            element("tr", element("th", each.label, scope="row"), *(element("td", told) for told in cells))
            for each, cells in zip(panel.drawn, lines, strict=True)
        ]
        told = f"{panel.title}, {'by' if panel.point_told is None else 'at'} {panel.x_label}"
        told += ", with 95 % intervals" if any(each.low is not None for each in panel.drawn) else ""
        caption = element("caption", element("span", told))
        table = element("table", caption, element("thead", element("tr", *head)), element("tbody", *rows))
        tables.append(scrolling(table, f"Numbers: {panel.title}"))
    return element("details", element("summary", f"Numbers: {group.title}"), *tables, class_="numbers")


def _by_place(panel: Panel) -> tuple[list[str], list[list[str]]]:
    """(names of the values of x, values of each series there)."""
    places = sorted({float(value) for each in panel.drawn for value in each.x[each.known]})
    values = [{float(each.x[k]): _value(each, k) for k in np.flatnonzero(each.known).tolist()} for each in panel.drawn]
    return [_tick(panel, place) for place in places], [[each.get(place, "") for place in places] for each in values]


def _by_point(panel: Panel, told: Callable[[int], str]) -> tuple[list[str], list[list[str]]]:
    """(names of the points, value and x of each series there)."""
    points = range(max(len(each.x) for each in panel.drawn))
    texts = [
        {k: f"{_value(each, k)} at {number(float(each.x[k]))}" for k in np.flatnonzero(each.known).tolist()}
        for each in panel.drawn
    ]
    return [told(k) for k in points], [[each.get(k, "") for k in points] for each in texts]
