"""How well the spread of an ensemble tells its error: rank histogram, spread and error by lead time, as JSON and as a
picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from apps.nowcast.metrics import METRICS, Estimate, Statistics, Sums, Weights, interval, rank_frequencies
from apps.nowcast.metrics.sums import Lazily
from apps.nowcast.table import Json, estimate_as_json
from core.fitting import write_atomically

BY_LEAD = ("spread", "rmse_of_mean", "spread_skill", "crps_fair", "outliers")
"""Metrics that are told for each lead time."""


@dataclass(frozen=True)
class Calibration:
    """How calibrated a method's ensemble is.

    Attributes:
        label: of the method.
        ranks: share of the pixels whose truth has 0, 1, ... members below it; 1 / (members + 1) each where calibrated.
        leads: metrics of `BY_LEAD` for each lead time.
    """

    label: str
    ranks: tuple[Estimate, ...]
    leads: tuple[Mapping[str, Estimate], ...]

    @property
    def members(self) -> int:
        return len(self.ranks) - 1

    def as_json(self, step_minutes: float) -> dict[str, Json]:
        leads: list[Json] = [
            {"minutes": step_minutes * lead} | {name: estimate_as_json(value) for name, value in scores.items()}
            for lead, scores in enumerate(self.leads, 1)
        ]
        return {
            "method": self.label,
            "members": self.members,
            "rank_frequencies": [estimate_as_json(rank) for rank in self.ranks],
            "calibrated_frequency": 1 / len(self.ranks),
            "leads": leads,
        }


def calibrate(label: str, statistics: Statistics, weights: Weights) -> Calibration:
    """The calibration of a method with intervals over the resamples `weights` (see `metrics.resamples`)."""
    total, drawn = statistics.total(), statistics.resampled(weights)
    value, samples = rank_frequencies(total["ranks"]), rank_frequencies(drawn["ranks"])
    ranks = tuple(interval(float(value[k]), samples[:, k]) for k in range(len(value)))
    leads = []
    for lead in range(total["ranks"].shape[0]):
        at_lead, drawn_at_lead = _at_lead(total, lead, 0), _at_lead(drawn, lead, 1)
        leads.append({n: interval(float(METRICS[n](at_lead)), METRICS[n](drawn_at_lead)) for n in BY_LEAD})
    return Calibration(label, ranks, tuple(leads))


def _at_lead(sums: Sums, lead: int, axis: int) -> Sums:
    """The sums of one lead time, which lie along `axis`, as if no other had been forecast."""
    return Lazily(sums, lambda name: sums[name].take([lead], axis=axis))


def plot_calibration(
    path: str | Path, methods: Sequence[Calibration], *, step_minutes: float = 5.0, title: str = ""
) -> None:
    """Write a PNG: rank histograms, spread over RMSE and fair CRPS by lead time, a colour for each method, thin bars
    their 95 % intervals.

    Args:
        path: the file; replaced whole or not at all.
        methods: at least one, all of as many members and leads.
        step_minutes: time between frames.
        title: above everything.

    Raises:
        ValueError: no methods, or such as do not fit each other.
    """
    if not methods or len({(method.members, len(method.leads)) for method in methods}) > 1:
        raise ValueError(
            f"expected methods of one number of members and leads, got {[(m.members, len(m.leads)) for m in methods]}"
        )
    figure = Figure(figsize=(13, 4.2 + 0.22 * ((len(methods) + 2) // 3)), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    _draw_ranks(panels[0], methods)
    _draw_leads(panels[1], methods, "spread_skill", step_minutes)
    panels[1].axhline(1.0, color="black", linewidth=0.8, linestyle="--")
    panels[1].set_ylabel("spread / RMSE of the mean")
    _draw_leads(panels[2], methods, "crps_fair", step_minutes)
    panels[2].set_ylabel("fair CRPS of [0, 1] values")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.suptitle(title, fontsize=12, fontweight="bold")
    figure.tight_layout(rect=(0, 0.02 + 0.05 * ((len(methods) + 2) // 3), 1, 1))
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=9)
    write_atomically(Path(path), lambda part: figure.savefig(part, format="png"))


def _colour(index: int) -> str:
    return f"C{index % 10}"


def _errors(values: Sequence[Estimate]) -> np.ndarray:
    """Lengths of the bars down and up, (2, values); 0 where there is no interval."""
    lengths = [(value.value - value.low, value.high - value.value) for value in values]
    return np.nan_to_num(np.array(lengths, np.float64).T, nan=0.0).clip(min=0.0)


def _draw_ranks(axes: Axes, methods: Sequence[Calibration]) -> None:
    bins = np.arange(methods[0].members + 1)
    width = 0.8 / len(methods)
    for index, method in enumerate(methods):
        place = bins + (index - (len(methods) - 1) / 2) * width
        heights = [rank.value for rank in method.ranks]
        axes.bar(place, heights, 0.9 * width, color=_colour(index), label=method.label)
        axes.errorbar(place, heights, _errors(method.ranks), fmt="none", ecolor="black", elinewidth=0.8)
    axes.axhline(1 / len(bins), color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks(bins)
    axes.set_xlabel("members below the truth")
    axes.set_ylabel("share of wet pixels")


def _draw_leads(axes: Axes, methods: Sequence[Calibration], metric: str, step_minutes: float) -> None:
    for index, method in enumerate(methods):
        values = [scores[metric] for scores in method.leads]
        minutes = step_minutes * np.arange(1, len(values) + 1)
        heights = [value.value for value in values]
        axes.errorbar(minutes, heights, _errors(values), color=_colour(index), marker="o", markersize=3, elinewidth=0.8)
    axes.set_xticks(step_minutes * np.arange(1, len(methods[0].leads) + 1))
    axes.set_xlabel("lead time (minutes)")
