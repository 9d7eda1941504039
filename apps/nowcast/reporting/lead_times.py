"""Charts of scores by lead time and by threshold."""

from __future__ import annotations

import numpy as np

from apps.nowcast.reporting.chart import SERIES, Group, Panel, Series
from apps.nowcast.verification.curves import Curve
from apps.nowcast.verification.results import Evaluation

_BY_LEAD = {
    "crps_fair": "Fair CRPS, of [0, 1] values (low is good)",
    "crps": "CRPS, of [0, 1] values (low is good)",
    "rmse_of_mean": "RMSE of the mean of the members, of [0, 1] values (low is good)",
    "ssim": "SSIM of single members (high is good)",
    "lpips": "Perceptual distance of single members (low is good)",
    "spectral_distance": "Spectral distance of single members, dB (low is good)",
}
_BY_THRESHOLD = {
    "csi": "CSI (high is good)",
    "csi4": "CSI of maxima over 4 x 4 pixels (high is good)",
    "csi16": "CSI of maxima over 16 x 16 pixels (high is good)",
    "hss": "HSS (high is good)",
    "pod": "Probability of detection (high is good)",
    "far": "False alarm ratio (low is good)",
    "bias": "Frequency bias (1 is good)",
    "csi_of_mean": "CSI of the mean of the members (high is good)",
    "brier_skill": "Brier skill score of probabilities (high is good)",
    "roc_area": "Area under the ROC of probabilities (high is good)",
}
_LEVELS = {"bias": 1.0, "brier_skill": 0.0, "roc_area": 0.5}


def shown(evaluation: Evaluation) -> list[tuple[int, str]]:
    """(look, label) of the methods that charts have room for."""
    return list(enumerate(s.method.label for s in evaluation.scored[:SERIES]))


def leads(evaluation: Evaluation) -> np.ndarray:
    """Lead times, (leads,): in minutes; in frames, which are what is pooled, where the minutes between them differ."""
    frames = np.arange(1, evaluation.scope.leads + 1, dtype=np.float64)
    return frames if len(evaluation.steps_minutes) > 1 else evaluation.step_minutes * frames


def lead_label(evaluation: Evaluation) -> str:
    """What an axis of `leads` is called."""
    return f"lead time ({'frames' if len(evaluation.steps_minutes) > 1 else 'minutes'})"


def lead_told(evaluation: Evaluation, lead: int) -> str:
    """The lead time of that number, from 0, in a title."""
    unit = "frames" if len(evaluation.steps_minutes) > 1 else "min"
    return f"+{leads(evaluation)[lead]:g} {unit}"


def lead_ticks(times: np.ndarray) -> list[tuple[float, str]]:
    """A tick at each lead time."""
    return [(float(time), f"{time:g}") for time in times]


def reaching(evaluation: Evaluation, threshold: float) -> str:
    """A threshold with its unit."""
    unit = " mm/h" if evaluation.quantity.logarithmic else ""
    return f"\N{GREATER-THAN OR EQUAL TO} {threshold:g}{unit}"


def series(look: int, label: str, x: np.ndarray, curve: Curve, place: tuple[int | slice, ...] = ()) -> Series:
    """A line through what `place` takes of a curve."""
    return Series(look, label, x, curve.value[place], curve.low[place], curve.high[place])


def by_lead_time(evaluation: Evaluation) -> list[Group]:
    """Groups of charts over the minutes since the forecast began."""
    methods, curves, x = shown(evaluation), evaluation.curves, leads(evaluation)
    windows = evaluation.scope.windows
    window = len(windows) // 2

    def panel(title: str, name: str, place: tuple[int | slice, ...] = ()) -> Panel:
        lines = [series(look, label, x, curves[label][name].by_lead, place) for look, label in methods]
        return Panel(title, lead_label(evaluation), lines, lead_ticks(x))

    thresholds = [(k, reaching(evaluation, t)) for k, t in enumerate(evaluation.scope.thresholds)]
    every = slice(None)
    errors = [panel(title, name) for name, title in _BY_LEAD.items()]
    return [
        Group("Errors and likeness by lead time", "Bands are 95 % intervals.", errors),
        Group(
            "CSI by lead time",
            "Critical success index of single members: hits over hits, misses and false alarms; high is good.",
            [panel(f"CSI, {told}", "csi", (every, k)) for k, told in thresholds],
        ),
        Group(
            "FSS by lead time",
            f"Fractions skill score of the members' probabilities in windows of {windows[window]} x {windows[window]} "
            "pixels: how well a place is met when it may be off by about half a window; high is good.",
            [panel(f"FSS, {told}", "fss_of_probability", (every, k, window)) for k, told in thresholds],
        ),
    ]  # fmt: skip


def by_threshold(evaluation: Evaluation) -> list[Group]:
    """A group of charts over the thresholds, of all lead times together."""
    methods, curves, scope = shown(evaluation), evaluation.curves, evaluation.scope
    x = np.arange(len(scope.thresholds), dtype=np.float64)
    ticks = [(float(k), f"{t:g}") for k, t in enumerate(scope.thresholds)]
    unit = "threshold (mm/h)" if evaluation.quantity.logarithmic else "threshold (code)"

    def panel(title: str, name: str, place: tuple[int | slice, ...] = ()) -> Panel:
        lines = [series(look, label, x, curves[label][name].all_leads, place) for look, label in methods]
        return Panel(title, unit, lines, ticks, level=_LEVELS.get(name))

    panels = [panel(title, name) for name, title in _BY_THRESHOLD.items()]
    panels += [
        panel(
            f"FSS of probabilities, windows of {side} x {side} (high is good)", "fss_of_probability", (slice(None), k)
        )
        for k, side in enumerate(scope.windows)
    ]
    note = "All lead times together; bands are 95 % intervals. Scores of single members unless said otherwise."
    return [Group("Scores by threshold", note, panels)]
