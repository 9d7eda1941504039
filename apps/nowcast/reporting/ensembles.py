"""Charts of how far probabilities and spread can be trusted."""

from __future__ import annotations

import numpy as np

from apps.nowcast.reporting.chart import Group, Panel, Series
from apps.nowcast.reporting.lead_times import lead_label, lead_ticks, leads, reaching, series, shown
from apps.nowcast.verification.results import Evaluation


def calibration(evaluation: Evaluation) -> list[Group]:
    """Groups of charts of ensembles; none where every method has one member."""
    ensembles = {s.method.label: s for s in evaluation.ensembles}
    methods = [(look, label) for look, label in shown(evaluation) if label in ensembles]
    if not methods:
        return []
    thresholds, x = list(enumerate(evaluation.scope.thresholds)), leads(evaluation)
    return [
        _ranks(evaluation, methods),
        Group(
            "Spread and error",
            "The spread of a calibrated ensemble equals the error of its mean; below 1 it is too sure of itself.",
            [
                Panel(
                    "Spread over RMSE of the mean (1 is good)",
                    lead_label(evaluation),
                    [series(i, m, x, evaluation.curves[m]["spread_skill"].by_lead) for i, m in methods],
                    lead_ticks(x),
                    level=1.0,
                ),
            ],
        ),
        Group(
            "Reliability",
            "How often it rained so much where a given share of the members said so; on the dashed line probabilities "
            "can be taken at their word. All lead times together.",
            [_probabilities(evaluation, methods, k, t, "reliability") for k, t in thresholds],
        ),
        Group(
            "Sharpness",
            "Share of all pixels that were given each probability: how decided the forecasts are.",
            [_probabilities(evaluation, methods, k, t, "sharpness") for k, t in thresholds],
        ),
        Group(
            "ROC",
            "Hit rate over false alarm rate of warnings at k or more members; up and left is good, the dashed line is "
            "chance. All lead times together.",
            [_roc(evaluation, methods, k, t) for k, t in thresholds],
        ),
    ]  # fmt: skip


def _ranks(evaluation: Evaluation, methods: list[tuple[int, str]]) -> Group:
    by_label = {each.label: each for each in evaluation.calibrations}
    sizes = sorted({by_label[label].members for _, label in methods}, reverse=True)
    panels = []
    for members in sizes:
        ranks = np.arange(members + 1, dtype=np.float64)
        lines = [
            Series(look, label, ranks, *np.array([(r.value, r.low, r.high) for r in by_label[label].ranks]).T)
            for look, label in methods
            if by_label[label].members == members
        ]
        title = f"Rank histogram of {members} members, share of wet pixels"
        ticks = [(float(rank), str(int(rank))) for rank in ranks]
        panels.append(Panel(title, "members below the truth", lines, ticks, level=1 / (members + 1), bars=True))
    note = (
        "Flat, on the dashed line, where the truth could be one more member; a U where the members are too alike, a "
        "slope where they are too wet (high on the left) or too dry."
    )
    return Group("Rank histogram", note, panels)


def _probabilities(
    evaluation: Evaluation, methods: list[tuple[int, str]], k: int, threshold: float, name: str
) -> Panel:
    lines = []
    for look, label in methods:
        curve = evaluation.curves[label][name].all_leads
        probabilities = np.arange(curve.value.shape[-1]) / (curve.value.shape[-1] - 1)
        lines.append(series(look, label, probabilities, curve, (k,)))
    reliable = name == "reliability"
    title = f"{'Observed share' if reliable else 'Share of pixels'}, {reaching(evaluation, threshold)}"
    return Panel(title, "forecast probability", lines, diagonal=reliable, log_y=not reliable)


def _roc(evaluation: Evaluation, methods: list[tuple[int, str]], k: int, threshold: float) -> Panel:
    lines = []
    for look, label in methods:
        curve = evaluation.curves[label]["roc"].all_leads  # (threshold, warning, rates)
        lines.append(Series(look, label, curve.value[k, :, 0], curve.value[k, :, 1]))
    title = f"Hit rate, {reaching(evaluation, threshold)}"
    return Panel(title, "false alarm rate", lines, diagonal=True, point_told=_warning)


def _warning(k: int) -> str:
    """The k-th warning of `exceedance.roc_curve`."""
    return f"{k} or more members"
