"""Pictures of a nowcast: panels of observed and forecast frames as a PNG, and an animation of them as a GIF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from PIL import Image

from apps.nowcast.forecasting.production import Nowcast
from apps.nowcast.forecasting.scene import Scene
from core.fitting import write_atomically
from data_tools.colours import COLOUR_SCALES

_PANEL = 2.1  # inches, the longer side
_MOST_PIXELS = 700  # a side that is drawn: more of them no panel can show
_FRAME_MILLISECONDS, _LAST_MILLISECONDS = 350, 1200


def draw(stem: Path, scene: Scene, nowcast: Nowcast, thresholds: Sequence[float]) -> tuple[Path, Path]:
    """Write STEM.png and STEM.gif, each whole or not at all, and return their paths."""
    panels, animation = stem.with_suffix(".png"), stem.with_suffix(".gif")
    rows = _rows(scene, nowcast, thresholds)
    write_atomically(panels, lambda part: _panels(scene, rows, nowcast).savefig(part, format="png"))
    images = list(_animation(scene, rows, nowcast))
    durations = [_FRAME_MILLISECONDS] * (len(images) - 1) + [_LAST_MILLISECONDS]
    palette = images[-1]
    indexed = [image.quantize(palette=palette.quantize(255), dither=Image.Dither.NONE) for image in images]
    write_atomically(
        animation,
        lambda part: indexed[0].save(
            part, format="gif", save_all=True, append_images=indexed[1:], duration=durations, loop=0, disposal=1
        ),
    )
    return panels, animation


def _rows(scene: Scene, nowcast: Nowcast, thresholds: Sequence[float]) -> dict[str, np.ndarray]:
    """Label -> frames (T, H, W), in the order of the rows."""
    rows: dict[str, np.ndarray] = {}
    if nowcast.provenance.fallback:
        rows["Fallback:\n" + nowcast.provenance.kind.replace(" ", "\n")] = nowcast.members[0]
    else:
        if len(nowcast.members) > 1:
            rows["Ensemble\nmean"] = nowcast.mean
        rows |= {f"Member {number}": fields for number, fields in enumerate(nowcast.members)}
    if nowcast.probability is not None:
        rows[f"Probability\n\N{GREATER-THAN OR EQUAL TO} {thresholds[0]:g} {_unit(scene)}".rstrip()] = (
            nowcast.probability
        )
    return rows


def _unit(scene: Scene) -> str:
    return "mm/h" if scene.quantity.logarithmic else ""


def _small(frame: np.ndarray) -> np.ndarray:
    """Every n-th pixel, so that drawing costs no more than is seen."""
    every = -(-max(frame.shape) // _MOST_PIXELS)
    return frame[::every, ::every]


def _style(label: str, scene: Scene) -> tuple[Colormap, Normalize]:
    if not label.startswith("Probability"):
        return COLOUR_SCALES[scene.quantity.name].colormap()
    from matplotlib import colormaps

    missing = COLOUR_SCALES[scene.quantity.name].missing
    return colormaps["YlGnBu"].with_extremes(bad=missing), Normalize(0.0, 1.0)


def _draw(axes: Axes, frame: np.ndarray, style: tuple[Colormap, Normalize], scene: Scene) -> None:
    axes.imshow(
        np.ma.masked_invalid(_small(frame)), cmap=style[0], norm=style[1], interpolation="nearest", aspect="equal",
        origin="upper" if scene.place.north_up else "lower",
    )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])


def _panels(scene: Scene, rows: Mapping[str, np.ndarray], nowcast: Nowcast) -> Figure:
    """A row of observed frames, then one for each of `rows`, a column for each time."""
    count = max(len(scene.frames), len(next(iter(rows.values()))))
    height, width = scene.frames.shape[1:]
    panel = np.array([width, height]) * _PANEL / max(height, width)
    size = (count * panel[0] + 2.6, (len(rows) + 1) * (panel[1] + 0.32) + 0.7)
    figure = Figure(figsize=size, dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(
        len(rows) + 1, count, squeeze=False,
        gridspec_kw={
            "left": 1.3 / size[0], "right": 1 - 1.25 / size[0], "bottom": 0.1 / size[1], "top": 1 - 0.8 / size[1],
            "wspace": 0.05, "hspace": 0.3 / panel[1],
        },
    )  # fmt: skip
    minutes = scene.step_seconds / 60
    for row, (label, frames) in enumerate({"Observed": scene.frames, **rows}.items()):
        style = _style(label, scene)
        for column, axes in enumerate(grid[row]):
            if column >= len(frames):
                axes.set_axis_off()
                continue
            _draw(axes, frames[column], style, scene)
            lead = (column + 1 - len(frames) if row == 0 else column + 1) * minutes
            axes.set_title(f"{lead:+g} min" if lead else "now", fontsize=8, pad=2)
        middle = grid[row][0].get_position()
        figure.text(0.1 / size[0], (middle.y0 + middle.y1) / 2, label, fontsize=9, va="center")
        if row == 0 or label.startswith("Probability"):
            _bar(figure, grid[row][-1], style, scene, label, size)
    figure.text(0.1 / size[0], 1 - 0.25 / size[1], _title(scene, nowcast), fontsize=11, fontweight="bold", va="center")
    return figure


def _title(scene: Scene, nowcast: Nowcast) -> str:
    start = scene.init_time.item()
    made = nowcast.provenance
    sent = f"fallback: {made.kind}" if made.fallback else made.solver
    return f"{scene.name}, nowcast from {start:%Y-%m-%d %H:%M} UTC ({sent})"


def _bar(
    figure: Figure,
    beside: Axes,
    style: tuple[Colormap, Normalize],
    scene: Scene,
    label: str,
    size: tuple[float, float],
) -> None:
    box = beside.get_position()
    axes = figure.add_axes((1 - 1.1 / size[0], box.y0, 0.13 / size[0], box.y1 - box.y0))
    bar = figure.colorbar(ScalarMappable(style[1], style[0]), cax=axes)
    bar.ax.tick_params(labelsize=6)
    text = "probability" if label.startswith("Probability") else COLOUR_SCALES[scene.quantity.name].label
    bar.set_label(text, fontsize=7)


def _animation(scene: Scene, rows: Mapping[str, np.ndarray], nowcast: Nowcast) -> list[Image.Image]:
    """One picture for each observed and each forecast time, all rows side by side."""
    height, width = scene.frames.shape[1:]
    panel = np.array([width, height]) * 3.2 / max(height, width)
    size = (len(rows) * (panel[0] + 0.1) + 1.3, panel[1] + 1.0)
    leads = len(next(iter(rows.values())))
    minutes, images = scene.step_seconds / 60, []
    for moment in range(-len(scene.frames) + 1, leads + 1):
        figure = Figure(figsize=size, dpi=80, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        for column, (label, frames) in enumerate(rows.items()):
            left = 0.1 + column * (panel[0] + 0.1)
            axes = figure.add_axes((left / size[0], 0.1 / size[1], panel[0] / size[0], panel[1] / size[1]))
            if moment > 0:
                _draw(axes, frames[moment - 1], _style(label, scene), scene)
            else:
                _draw(axes, scene.frames[moment - 1], _style("Observed", scene), scene)
            named = label.replace("\n", " ") if moment > 0 else "Observed"
            axes.set_title(named, fontsize=8, pad=2)
        _bar(figure, figure.axes[0], _style("Observed", scene), scene, "Observed", size)
        figure.text(0.1 / size[0], 1 - 0.2 / size[1], _title(scene, nowcast), fontsize=8, va="center")
        when = (scene.init_time + np.timedelta64(moment * scene.step_seconds, "s")).item()
        text = f"{when:%H:%M} UTC   {moment * minutes:+g} min"
        colour = "#b00020" if moment > 0 else "#222222"
        figure.text(0.1 / size[0], 1 - 0.48 / size[1], text, fontsize=9, color=colour, va="center")
        canvas.draw()
        images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    return images
