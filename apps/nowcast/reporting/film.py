"""Radar frames as strips: all times of one forecast side by side, which a script shows one at a time.

Without the script, and on paper, the strips stand as they are. Images are indexed PNGs in the colours of the quantity,
as data URIs.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from apps.nowcast.reporting.chart import SERIES
from apps.nowcast.reporting.html import Html, element, joined
from apps.nowcast.verification.results import Evaluation
from data_tools.colours import COLOUR_SCALES, ColourScale

BUDGET = 6 << 20
"""Characters that all images may take."""

_SETTINGS = ((4, 256), (2, 256), (1, 256), (1, 128), (1, 64), (1, 32))
"""(members of each method, most pixels of a side), tried in this order until the budget holds."""

_MOST_TIMES = 24
_GAP = 2  # transparent columns between the frames of a strip
_GAPS, _UNDER, _MISSING, _CLASSES = 0, 1, 2, 3  # indices of the palette


@dataclass(frozen=True)
class Strip:
    """Frames of one kind: a row of the film.

    Attributes:
        panel: heading it stands under.
        view: which choice shows it, such as `member 1`; empty where it is always shown.
        frames: (times, H, W), stored scale, NaN missing.
        times: minutes of each since the forecast began.
    """

    panel: str
    view: str
    frames: np.ndarray
    times: Sequence[float]


def film(evaluation: Evaluation) -> Html:
    """Context, truth and the methods' members of the event that is drawn, with what to play them by."""
    scale = COLOUR_SCALES[evaluation.quantity.name]
    images: dict[int, str] = {}
    strips: list[Strip] = []
    for members, side in _SETTINGS:
        strips = list(_strips(evaluation, members))
        images = {
            k: png(_upright(small(strip.frames, side), evaluation.north_up), scale) for k, strip in enumerate(strips)
        }
        if sum(map(len, images.values())) <= BUDGET:
            break
    panels: dict[str, list[int]] = {}
    for k, strip in enumerate(strips):
        panels.setdefault(strip.panel, []).append(k)
    figures = []
    for label, numbers in panels.items():
        shown = [
            _image(strips[k], images[k], evaluation, small(strips[k].frames, side), first=k == numbers[0])
            for k in numbers
        ]
        caption = element("figcaption", label, element("small", class_="when"))
        figures.append(element("figure", caption, element("div", *shown, class_="screen"), class_="panel"))
    views = list(dict.fromkeys(strip.view for strip in strips if strip.view))
    every = -(-max(evaluation.scope.size) // side)
    thinned = "" if every == 1 else f" Drawn is one pixel of {every} by {every}."
    told = (
        f"Event {evaluation.picture.event}, the one with the most rain. Each picture is a strip of frames in the order "
        f"of time; grey is missing.{thinned}"
    )
    return joined(
        element("p", told),
        _bar(scale),
        element("div", _controls(views), element("div", *figures, class_="panels"), class_="film"),
    )


def _strips(evaluation: Evaluation, members: int) -> Iterator[Strip]:
    picture, step = evaluation.picture, evaluation.step_minutes
    context = [step * (k + 1 - len(picture.context)) for k in range(len(picture.context))]
    leads = [step * (k + 1) for k in range(len(picture.truth))]
    observed, ahead = _spread(len(context)), _spread(len(leads))
    yield Strip("Context (observed)", "", picture.context[observed], [context[k] for k in observed])
    times = [leads[k] for k in ahead]
    yield Strip("Truth (observed)", "", picture.truth[ahead], times)
    for each in evaluation.scored[:SERIES]:
        if not each.pictured.size:
            continue
        fields, label = each.pictured[:, ahead], each.method.label
        if len(fields) == 1:
            yield Strip(label, "", fields[0], times)
            continue
        for number, member in enumerate(fields[:members], 1):
            yield Strip(label, f"member {number}", member, times)
        yield Strip(label, f"mean of {len(fields)} members", fields.mean(axis=0), times)


def _spread(count: int) -> list[int]:
    """At most `_MOST_TIMES` of so many, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_TIMES)).round().astype(int)).tolist()


def small(frames: np.ndarray, side: int) -> np.ndarray:
    """Every n-th pixel, so that no side is longer than `side`."""
    every = -(-max(frames.shape[1:]) // side)
    return frames[:, ::every, ::every]


def _upright(frames: np.ndarray, north_up: bool) -> np.ndarray:
    """With north at the top."""
    return frames if north_up else frames[:, ::-1]


def png(frames: np.ndarray, scale: ColourScale) -> str:
    """Frames (times, H, W) side by side, with a gap behind each, as a data URI."""
    colormap, norm = scale.colormap()
    classes = np.asarray(norm(np.ma.masked_invalid(frames)).filled(-2))  # -1 is below the lowest class
    top = colormap.N - 1
    indices = np.where(classes == -2, _MISSING, np.where(classes == -1, _UNDER, classes.clip(max=top) + _CLASSES))
    times, height, width = frames.shape
    strip = np.full((height, times, width + _GAP), _GAPS, np.uint8)
    strip[:, :, :width] = indices.transpose(1, 0, 2)
    image = Image.fromarray(strip.reshape(height, times * (width + _GAP)), mode=None)
    image = image.convert("L") if image.mode != "L" else image
    indexed = Image.frombytes("P", image.size, image.tobytes())
    colours = ["#000000", scale.under, scale.missing, *(f"#{digits}" for digits in scale.colours.split())]
    indexed.putpalette([int(colour[k : k + 2], 16) for colour in colours for k in (1, 3, 5)])
    file = io.BytesIO()
    indexed.save(file, format="png", optimize=True, transparency=_GAPS)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _image(strip: Strip, source: str, evaluation: Evaluation, shown: np.ndarray, first: bool) -> Html:
    times, height, width = shown.shape
    return element(
        "img",
        src=source,
        alt=_told(strip, evaluation),
        width=times * (width + _GAP),
        height=height,
        class_="strip shown" if first else "strip",
        data_view=strip.view or None,
        data_times=" ".join(f"{time:g}" for time in strip.times),
    )


def _told(strip: Strip, evaluation: Evaluation) -> str:
    """What the strip shows, in words."""
    lowest, unit = evaluation.scope.thresholds[0], " mm/h" if evaluation.quantity.logarithmic else ""
    of = f"{strip.panel}, {strip.view}" if strip.view else strip.panel
    seen = np.isfinite(strip.frames)
    told = f"{of}, {strip.times[0]:g} to {strip.times[-1]:g} minutes: "
    if not seen.any():
        return told + "nothing was observed."
    wet = [
        f"{np.mean(frame[known] >= lowest):.0%}" if known.any() else "an unknown part"
        for frame, known in ((strip.frames[0], seen[0]), (strip.frames[-1], seen[-1]))
    ]
    highest = float(strip.frames[seen].max())
    return (
        told
        + f"{lowest:g}{unit} or more on {wet[0]} of the frame at first, {wet[1]} at last; at most {highest:.3g}{unit}."
    )


def _bar(scale: ColourScale) -> Html:
    """The colours with the values between them."""
    colours = [f"#{digits}" for digits in scale.colours.split()]
    width = 480 / len(colours)
    parts = [
        element("rect", x=f"{k * width:.1f}", y=0, width=f"{width + 0.3:.1f}", height=12, fill=colour)
        for k, colour in enumerate(colours)
    ]
    parts += [
        element("text", f"{edge:g}", x=f"{k * width:.1f}", y=28, class_="middle") for k, edge in enumerate(scale.edges)
    ]
    label = f"Colours of {scale.label}, from {scale.edges[0]:g} to {scale.edges[-1]:g}"
    bar = element("svg", *parts, viewBox="-12 0 510 32", role="img", aria_label=label, class_="bar")
    return element("figure", element("figcaption", scale.label), bar, class_="colours")


def _controls(views: Sequence[str]) -> Html:
    choices = [element("option", view, value=view) for view in views]
    return element(
        "div",
        element("button", "\N{BLACK LEFT-POINTING TRIANGLE}", type="button", class_="back", aria_label="Previous time"),
        element("button", "Play", type="button", class_="play"),
        element("button", "\N{BLACK RIGHT-POINTING TRIANGLE}", type="button", class_="on", aria_label="Next time"),
        element("label", "Time", element("input", type="range", min=0, max=0, step=1, value=0, class_="time")),
        element("output", aria_live="off", class_="now"),
        element("label", "Show", element("select", *choices, class_="view")) if views else None,
        class_="controls",
        role="group",
        aria_label="Player",
        hidden=True,
    )
