"""Colours of radar fields, one scale for each quantity, for every picture of the project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap


@dataclass(frozen=True, slots=True)
class ColourScale:
    """How values are coloured.

    Attributes:
        label: of the colour bar.
        edges: class edges, ascending.
        colours: one colour of six hexadecimal digits for each class, space between; the last also serves what is above.
        under, missing: colours below the first edge and where there is no data.
        north_up: whether row 0 is the northernmost in the archives of the quantity.
    """

    label: str
    edges: tuple[float, ...]
    colours: str
    under: str
    missing: str
    north_up: bool = True

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
        north_up=False,  # SEVIR's rows go north
    ),
}
"""By quantity name."""


def draw_frame(axes: Axes, frame: np.ndarray, scale: ColourScale, *, north_up: bool = True) -> None:
    """A frame (y, x), NaN missing, without ticks; `north_up` says that row 0 is the northernmost."""
    colormap, norm = scale.colormap()
    # No interpolation: a pixel is a measurement.
    origin = "upper" if north_up else "lower"
    axes.imshow(
        np.ma.masked_invalid(frame), cmap=colormap, norm=norm, interpolation="nearest", aspect="auto", origin=origin
    )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
        spine.set_edgecolor("#777777")
