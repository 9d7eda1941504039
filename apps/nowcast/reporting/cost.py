"""Charts of quality over what it costs: network evaluations and seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from apps.nowcast.reporting.chart import Group, Panel, Series
from apps.nowcast.reporting.lead_times import shown
from apps.nowcast.table import Row
from apps.nowcast.verification.results import Evaluation

_SCORES = {
    "csi16": "CSI of maxima over 16 x 16 pixels (high is good)",
    "csi": "CSI (high is good)",
    "crps_fair": "Fair CRPS, of [0, 1] values (low is good)",
    "lpips": "Perceptual distance (low is good)",
}


def cost(evaluation: Evaluation) -> list[Group]:
    """Quality over evaluations and over seconds: one line for each family of methods, such as ddim at all its numbers
    of steps."""
    families: dict[str, list[Row]] = {}
    for _, label in shown(evaluation):
        row = evaluation.rows[label]
        families.setdefault(family(label, row.steps), []).append(row)
    free = next((label for label, row in evaluation.rows.items() if row.nfe == 0), None)
    base = {} if free is None else {n: evaluation.rows[free].scores[n].value for n in _SCORES}
    note = "One line for each family of methods, a point for each number of steps."
    note += f" The dashed line is {free}, which needs no network." if free else ""
    others = [label for _, label in shown(evaluation) if evaluation.rows[label].nfe == 0 and label != free]
    note += f" For {', '.join(others)}, which need none either, see the charts over time." if others else ""
    axis = "network evaluations of a member"
    evaluations = [_panel(n, told, axis, families, base.get(n), False) for n, told in _SCORES.items()]
    times = [_panel(n, told, "seconds of a member", families, None, True) for n, told in _SCORES.items()]
    measured = "Wall-clock on the machine that forecast; ratios travel further than seconds."
    return [Group("Quality and network evaluations", note, evaluations), Group("Quality and time", measured, times)]


def family(label: str, steps: int | None) -> str:
    """A method's label without its number of steps: ddim of ddim-5, spanlift (target) of spanlift-5 (target)."""
    return label if steps is None else re.sub(rf"-{steps}(?![0-9])", "", label, count=1)


def _panel(
    score: str,
    title: str,
    axis: str,
    families: Mapping[str, list[Row]],
    level: float | None,
    seconds: bool,
) -> Panel:
    lines = []
    for look, (name, rows) in enumerate(families.items()):
        points = []
        for row in rows:
            cost = row.scores["seconds_per_member"].value if seconds else float(row.nfe)
            found = row.scores[score]
            if cost > 0 and np.isfinite(found.value):
                points.append((cost, found.value, found.low, found.high))
        if points:
            lines.append(Series(look, name, *np.array(sorted(points)).T))
    ticks = None
    if not seconds:
        counts = sorted({float(count) for line in lines for count in line.x})
        ticks = [(count, f"{count:g}") for count in counts]
    level = level if level is not None and np.isfinite(level) else None
    return Panel(title, axis, lines, ticks, log_x=True, bars=True, level=level)
