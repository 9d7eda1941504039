"""Pictures of nowcasts: context, truth and every forecast as rows of radar frames on one colour scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from core.fitting import write_atomically


class Named(Protocol):
    """The part of a quantity that a picture needs."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class ColourScale:
    """How values are coloured.

    Attributes:
        label: of the colour bar.
        edges: class edges, ascending.
        colours: one colour of six hexadecimal digits for each class, space between; the last also serves what is above.
        under, missing: colours below the first edge and where there is no data.
    """

    label: str
    edges: tuple[float, ...]
    colours: str
    under: str
    missing: str

    def colormap(self) -> tuple[Colormap, BoundaryNorm]:
        colours = [f"#{digits}" for digits in self.colours.split()]
        colormap = ListedColormap(colours).with_extremes(under=self.under, over=colours[-1], bad=self.missing)
        return colormap, BoundaryNorm(self.edges, len(colours))


COLOUR_SCALES: Mapping[str, ColourScale] = {
    # Violet, blue, green, yellow, red as pysteps orders the hues of rain rates; about five classes a decade.
    "rainfall_rate": ColourScale(
        label="rain rate (mm/h)",
        edges=(0.1, 0.25, 0.5, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 25.0, 40.0, 63.0, 100.0),
        colours="e3d4ee b79ccb 8a5fb0 4b3fc0 1f78e6 149c9a 12b83a 7ee01a f5f014 fdbf12 f9861a e02416 8f0d3c",
        under="#ffffff",
        missing="#bdbdbd",
    ),
    # SEVIR's levels and colours as Earthformer and PreDiff pair them, so that figures can be laid side by side.
    "vil": ColourScale(
        label="VIL (SEVIR code)",
        edges=(0.0, 16.0, 31.0, 59.0, 74.0, 100.0, 133.0, 160.0, 181.0, 219.0, 255.0),
        colours="4d4d4d 28be28 199619 0a690a 0a4b0a f5f500 edac00 f06e00 a00000 e700ff",
        under="#4d4d4d",
        missing="#d9d9d9",
    ),
}
"""By quantity name."""

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
            _draw_frame(axes, frame, scale)
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


def _draw_frame(axes: Axes, frame: np.ndarray, scale: ColourScale) -> None:
    colormap, norm = scale.colormap()
    # Row 0 is the northernmost, as in the archives' own images. No interpolation: a pixel is a measurement.
    axes.imshow(np.ma.masked_invalid(frame), cmap=colormap, norm=norm, interpolation="nearest", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
        spine.set_edgecolor("#777777")


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
