"""Paired differences of methods: each solver against DDIM at as many steps, and solvers of as many steps among
themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from apps.nowcast.evaluation import Scored
from apps.nowcast.metrics import METRICS, Weights, difference, recovered
from apps.nowcast.table import Json, estimate_as_json
from data_tools.cli import UserError

PAIRED = {
    "hss": ("HSS", 3),
    "csi": ("CSI", 3),
    "csi4": ("CSI-4", 3),
    "csi16": ("CSI-16", 3),
    "crps": ("CRPS", 4),
    "crps_fair": ("fair CRPS", 4),
    "lpips": ("LPIPS*", 3),
    "spread_skill": ("spread/RMSE", 3),
}
"""Metrics whose paired differences are shown, with headings and digits. The fair CRPS does not depend on the number of
members; that of the ensemble as it is favours too little spread where members are few."""


def compare(scored: Sequence[Scored], weights: Weights) -> list[dict[str, Json]]:
    """Differences of each SpanLift solver from DDIM and from the SpanLift solvers before it, at as many steps, paired
    by event; and how much of the loss of few steps it makes good.

    The share is None where 100 steps are not better than few beyond doubt: there is then nothing to make good.
    """
    comparisons: list[dict[str, Json]] = []
    by_name = {(s.method.name, s.method.steps): s for s in scored}
    many = by_name.get(("ddim", 100))
    learned = [s for s in scored if s.method.supervision]
    for index, solver in enumerate(learned):
        few = by_name.get(("ddim", solver.method.steps))
        if few is not None:
            row = _paired(solver, few, weights)
            if many is not None:
                lost = difference(many.statistics, few.statistics, METRICS["csi16"], weights)
                share = recovered(solver.statistics, few.statistics, many.statistics, METRICS["csi16"], weights)
                row["csi16_lost"] = estimate_as_json(lost)
                row["csi16_recovered"] = estimate_as_json(share) if lost.low > 0 else None  # else a share of nothing
            comparisons.append(row)
        others = [other for other in learned[:index] if other.method.steps == solver.method.steps]
        comparisons += [_paired(solver, other, weights) for other in others]
    return comparisons


def against(scored: Sequence[Scored], baseline: str, weights: Weights) -> list[dict[str, Json]]:
    """Differences of every other method from the one whose label, or else name, is `baseline`, paired by event.

    Raises:
        UserError: there is none, or several of that name.
    """
    found = [s for s in scored if s.method.label == baseline] or [s for s in scored if s.method.name == baseline]
    if len(found) != 1:
        labels = ", ".join(s.method.label for s in scored)
        raise UserError(f"expected --baseline to be one of the methods {labels}, got {baseline!r}")
    return [_paired(each, found[0], weights) for each in scored if each is not found[0]]


def _paired(method: Scored, reference: Scored, weights: Weights) -> dict[str, Json]:
    row: dict[str, Json] = {"method": method.method.label, "reference": reference.method.label}
    for name in (*PAIRED, "hss_of_mean", "rmse_of_mean", "outliers"):
        row[name] = estimate_as_json(difference(method.statistics, reference.statistics, METRICS[name], weights))
    return row


def lines(comparisons: Sequence[dict[str, Json]]) -> Iterator[str]:
    """The comparisons for people, a line or two each."""
    for row in comparisons:
        parts = [
            f"{heading} {_signed(row[name], digits=digits)}"
            for name, (heading, digits) in PAIRED.items()
            if cast("dict[str, Any]", row[name])["value"] is not None
        ]
        yield f"{row['method']} minus {row['reference']}: {', '.join(parts)}"
        if row.get("csi16_recovered"):
            yield f"  makes good {_signed(row['csi16_recovered'], '')} of the CSI-16 that few steps lose"
        elif "csi16_lost" in row:
            yield f"  no CSI-16 to make good: 100 steps minus few is {_signed(row['csi16_lost'])}"


def _signed(value: Json, sign: str = "+", digits: int = 3) -> str:
    estimate = cast("dict[str, Any]", value)
    parts = (estimate["value"], *estimate["ci95"])
    number, low, high = (float("nan") if part is None else part for part in parts)
    return f"{number:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
