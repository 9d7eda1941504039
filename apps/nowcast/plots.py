"""Pictures of nowcasts: context, truth and every forecast as rows of radar frames on one colour scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from core.fitting import write_atomically
from data_tools.colours import COLOUR_SCALES, ColourScale, draw_frame


class Named(Protocol):
    """The part of a quantity that a picture needs."""

    @property
    def name(self) -> str: ...


_PANEL = 1.35  # inches
_LABELS, _BAR, _HEADER, _GAP = 1.5, 1.0, 0.42, 0.04  # inches: row labels, colour bar, header, between panels


def plot_nowcasts(
    path: str | Path,
    context: np.ndarray,
    truth: np.ndarray,
    forecasts: Mapping[str, np.ndarray],
    quantity: Named,
    *,
    step_minutes: float = 5.0,
    north_up: bool | None = None,
    title: str = "",
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a PNG: a row of frames for the context, the truth and each forecast, a column for each lead time.

    Args:
        path: the file; replaced whole or not at all.
        context: (context frames, y, x) on the stored scale, NaN missing.
        truth: (leads, y, x), likewise.
        forecasts: label -> (leads, y, x), in the order of the rows.
        quantity: its name picks the colours (`COLOUR_SCALES`).
        step_minutes: time between frames; the last context frame is minute 0.
        north_up: whether row 0 is the northernmost; by default as the archives of the quantity have it.
        title: above everything.
        notes: label -> a short second line under the row's label, such as its score.

    Raises:
        ValueError: shapes differ, or a quantity without colours.
    """
    rows = {"Observed": context, "Truth": truth, **forecasts}
    _check(rows, truth, quantity)
    scale = COLOUR_SCALES[quantity.name]
    columns = max(len(context), len(truth))
    height, width = truth.shape[-2:]
    panel_height = _PANEL * height / width
    # One strip of labels above the context's row and one above the truth's, which serves all forecasts.
    strip = 0.24
    size = (
        _LABELS + columns * (_PANEL + _GAP) + _BAR,
        (_HEADER if title else 0.1) + 2 * strip + len(rows) * (panel_height + _GAP) + 0.1,
    )
    figure = Figure(figsize=size, dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    top = size[1] - (_HEADER if title else 0.1)
    for row, (label, frames) in enumerate(rows.items()):
        top -= strip if row < 2 else 0.0
        top -= panel_height + _GAP
        first = 1 - len(context) if row == 0 else 1
        _label_row(figure, size, top + panel_height / 2, label, (notes or {}).get(label, ""))
        for column, frame in enumerate(frames):
            left = _LABELS + column * (_PANEL + _GAP)
            box = (left / size[0], top / size[1], _PANEL / size[0], panel_height / size[1])
            axes = figure.add_axes(box)
            draw_frame(axes, frame, scale, north_up=scale.north_up if north_up is None else north_up)
            if row < 2:
                axes.set_title(_lead_label((first + column) * step_minutes), fontsize=9, pad=3)
    _colour_bar(figure, size, scale)
    if title:
        figure.text(_LABELS / size[0], 1 - 0.27 / size[1], title, fontsize=12, fontweight="bold", va="center")
    write_atomically(Path(path), lambda part: figure.savefig(part, format="png"))


def _check(rows: Mapping[str, np.ndarray], truth: np.ndarray, quantity: Named) -> None:
    if quantity.name not in COLOUR_SCALES:
        raise ValueError(f"expected a quantity with colours ({', '.join(COLOUR_SCALES)}), got {quantity.name}")
    for label, frames in rows.items():
        fits = frames.ndim == 3 and frames.shape[1:] == truth.shape[1:]
        if not fits or (label != "Observed" and len(frames) != len(truth)):
            raise ValueError(
                f"expected frames (time, y, x) like the truth's {truth.shape}, got {frames.shape} for {label}"
            )


def _lead_label(minutes: float) -> str:
    sign = "+" if minutes > 0 else "\N{MINUS SIGN}" if minutes < 0 else ""
    return f"{sign}{abs(minutes):g} min"


def _label_row(figure: Figure, size: tuple[float, float], middle: float, label: str, note: str) -> None:
    x, shift = (_LABELS - 0.1) / size[0], 0.09 if note else 0.0
    figure.text(x, (middle + shift) / size[1], label, ha="right", va="center", fontsize=10)
    if note:
        figure.text(x, (middle - shift) / size[1], note, ha="right", va="center", fontsize=8, color="#555555")


def _colour_bar(figure: Figure, size: tuple[float, float], scale: ColourScale) -> None:
    colormap, norm = scale.colormap()
    left = size[0] - _BAR + 0.12
    axes = figure.add_axes((left / size[0], 0.16, 0.14 / size[0], 0.66))
    bar = figure.colorbar(ScalarMappable(norm, colormap), cax=axes, ticks=scale.edges, spacing="uniform")
    bar.ax.set_yticklabels([f"{edge:g}" for edge in scale.edges])
    bar.ax.tick_params(labelsize=8, length=2)
    bar.set_label(scale.label, fontsize=9)
    handles = [Patch(facecolor=scale.missing, edgecolor="#777777", linewidth=0.5, label="missing")]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=((left - 0.1) / size[0], 0.06),
        fontsize=8,
        frameon=False,
        handlelength=0.9,
        handletextpad=0.5,
        borderpad=0.2,
    )
