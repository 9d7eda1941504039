"""`python -m data_tools.stats STORE`: intensities, exceedances, motion and missing data of a store, by split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from core.fitting import write_atomically
from data_tools.cli import UserError, beside, check_outputs, progress_bar, run
from data_tools.colours import COLOUR_SCALES
from data_tools.quantities import RAIN_FLOOR, Quantity
from data_tools.sources import files_not_there, open_events, pixel_of
from data_tools.store import SPLITS
from data_tools.table import EventTable
from data_tools.tally import Tally, tally, values_of_codes

QUANTILES = (0.5, 0.9, 0.99, 0.999)
SPEED_QUANTILES = (0.1, 0.5, 0.9)
_COLOURS = {"train": "#1f6fb4", "val": "#e08214", "test": "#2a9d4b"}


@dataclass(frozen=True)
class Options:
    """Options of the command.

    Args:
        store: an event store, or a folder of SEVIR.
        split: the part to count, or all of them, each by itself.
        out: name of the outputs without .json and .png (default: that of the store with .stats).
        pairs: pairs of frames of each event whose motion is measured; 0 for none.
        workers: threads.
        overwrite: replace outputs that exist.
    """

    store: str
    split: Literal["train", "val", "test", "all"] = "all"
    out: str | None = None
    pairs: int = 6
    workers: int = 2
    overwrite: bool = False


def ratio_interval(parts: np.ndarray, wholes: np.ndarray) -> tuple[float, float, float] | None:
    """sum(parts) / sum(wholes) with its 95 % interval, events being the units that are independent; None of nothing.

    The linearised variance of a ratio estimator, E / (E - 1) sum (y - r x)^2 / (sum x)^2 (Cochran 1977, sec. 6.4);
    NaN bounds for a single event.
    """
    total = float(wholes.sum())
    if total == 0.0:
        return None
    ratio, count = float(parts.sum()) / total, len(parts)
    if count < 2:
        return ratio, float("nan"), float("nan")
    squares = float(np.square(parts - ratio * wholes).sum())
    reach = 1.96 * float(np.sqrt(count / (count - 1) * squares)) / total
    return ratio, max(ratio - reach, 0.0), min(ratio + reach, 1.0)


def histogram_edges(quantity: Quantity) -> np.ndarray:
    """Of the linear VIL code one class a code; of rain rates one below `RAIN_FLOOR`, then ten a decade."""
    _, scale, missing = quantity.storage
    if not quantity.logarithmic:
        return (np.arange(missing + 1) - 0.5) * scale
    decades = np.log10(missing * scale / RAIN_FLOOR)
    return np.concatenate([[0.0], RAIN_FLOOR * 10.0 ** (np.arange(int(np.ceil(decades * 10)) + 1) / 10)])


def summarise(counted: Tally, table: EventTable) -> dict[str, Any]:
    """The statistics of a tally, ready for JSON (no NaN: null where there is no number)."""
    values, counts = values_of_codes(table)[:-1], counted.codes[:-1]
    total, missing = int(counts.sum()), int(counted.codes[-1])
    mean = float(values @ counts) / total if total else None
    spread = float(np.sqrt(np.square(values - mean) @ counts / total)) if mean is not None else None
    edges = histogram_edges(table.quantity)
    exceedance = {}
    for column, threshold in enumerate(table.quantity.thresholds):
        reached = counted.exceeding[:, column]
        share = ratio_interval(reached, counted.pixels)
        exceedance[f"{threshold:g}"] = {
            "share": share and share[0],
            "interval_95": share and _numbers(share[1:]),
            "events_reaching_it": int((reached > 0).sum()),
        }
    return {
        "events": len(counted.pixels),
        "frames": len(counted.pixels) * table.shape[1],
        "pixels": total + missing,
        "missing_share": missing / (total + missing) if total + missing else None,
        "events_with_missing": int((counted.missing > 0).sum()),
        "frames_wholly_missing": counted.empty_frames,
        "mean": mean,
        "standard_deviation": spread,
        "quantiles": {f"{q:g}": _quantile(values, counts, q) for q in QUANTILES},
        "exceedance": exceedance,
        "histogram": {
            "edges": _numbers(edges),
            "pixels": np.histogram(values, edges, weights=counts)[0].astype(int).tolist(),
        },
        "motion": _summarise_motion(counted, table),
    }


def _numbers(values: Any) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _quantile(values: np.ndarray, counts: np.ndarray, q: float) -> float | None:
    """The least value that a share `q` of the pixels do not exceed; `values` increase."""
    cumulated = counts.cumsum()
    if cumulated[-1] == 0:
        return None
    return float(values[np.searchsorted(cumulated, q * cumulated[-1])])


def _summarise_motion(counted: Tally, table: EventTable) -> dict[str, Any]:
    """Speeds in pixels a frame, and in km/h where pixels are measured in metres."""
    width, height, units = pixel_of(table)
    to_km_per_h = 3.6 / table.time_step_seconds if units == "m" else float("nan")
    rows, columns = counted.motion.T
    speed, metric = np.hypot(rows, columns), np.hypot(rows * height, columns * width) * to_km_per_h
    ends = np.arange(0.0, 155.0, 5.0)
    return {
        "pairs": len(speed),
        "pairs_too_dry": counted.dry,
        "pixels_per_frame": _speeds(speed),
        "km_per_h": _speeds(metric) if units == "m" else None,
        "mean_rows_columns": _numbers(counted.motion.mean(axis=0)) if len(speed) else None,
        "histogram_km_per_h": {
            "edges": _numbers(ends),
            "pairs": np.histogram(metric, ends)[0].tolist(),
            "above": int((metric > ends[-1]).sum()),
        }
        if units == "m"
        else None,
    }


def _speeds(speed: np.ndarray) -> dict[str, float] | None:
    return {f"{q:g}": float(np.quantile(speed, q)) for q in SPEED_QUANTILES} if len(speed) else None


def plot(path: Path, results: Mapping[str, Mapping[str, Any]], quantity: Quantity, title: str) -> None:
    """Histogram of intensities, exceedance with its intervals and histogram of speeds, a colour for each split."""
    figure = Figure(figsize=(13.0, 4.0), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for split, found in results.items():
        edges, counts = np.array(found["histogram"]["edges"]), np.array(found["histogram"]["pixels"])
        share = counts / max(counts.sum(), 1)
        left.stairs(np.where(share > 0, share, np.nan), edges, color=_COLOURS[split], label=split)
        _draw_exceedance(middle, found["exceedance"], _COLOURS[split])
        speeds = found["motion"]["histogram_km_per_h"]
        if speeds and sum(speeds["pairs"]):
            right.stairs(np.array(speeds["pairs"]) / sum(speeds["pairs"]), speeds["edges"], color=_COLOURS[split])
    named = COLOUR_SCALES[quantity.name].label
    left.set(yscale="log", xlabel=named, ylabel="share of pixels")
    if quantity.logarithmic:
        left.set_xscale("symlog", linthresh=RAIN_FLOOR)
    left.set_xlim(left=0.0)
    left.legend(frameon=False)
    middle.set(yscale="log", xlabel=f"threshold, {named}", ylabel="share of pixels at or above")
    if quantity.logarithmic:
        middle.set_xscale("log")
    right.set(xlabel="speed of the field (km/h)", ylabel="share of frame pairs")
    figure.suptitle(title)
    write_atomically(path, lambda part: figure.savefig(part, format="png"))


def _draw_exceedance(axes: Axes, exceedance: Mapping[str, Any], colour: str) -> None:
    shown = {float(threshold): one for threshold, one in exceedance.items() if one["share"]}
    if not shown:
        return
    shares = np.array([one["share"] for one in shown.values()])
    bounds = np.array([[np.nan if b is None else b for b in one["interval_95"]] for one in shown.values()])
    reach = np.nan_to_num(np.abs(bounds - shares[:, None])).T
    axes.errorbar(list(shown), shares, yerr=reach, color=colour, marker="o", markersize=4, capsize=3)


def _line(split: str, found: Mapping[str, Any]) -> str:
    exceeded = ", ".join(f">={name} {one['share'] or 0.0:.4f}" for name, one in found["exceedance"].items())
    speed = found["motion"]["km_per_h"] or found["motion"]["pixels_per_frame"]
    units = "km/h" if found["motion"]["km_per_h"] else "pixels a frame"
    moved = f"; median speed {speed['0.5']:.1f} {units}" if speed else ""
    absent = found["missing_share"] or 0.0
    return (
        f"{split}: {found['events']} events, {absent:.4f} missing, mean {found['mean'] or 0.0:.4g}; {exceeded}{moved}"
    )


def main(options: Options) -> None:
    if options.pairs < 0 or not 1 <= options.workers <= 256:
        raise UserError(f"expected --pairs from 0 and --workers from 1, got {options.pairs} and {options.workers}")
    source = Path(options.store)
    base = Path(options.out) if options.out else beside(source, lambda name: f"{Path(name).stem}.stats")
    numbers, picture = (base.with_name(base.name + ending) for ending in (".json", ".png"))
    table = open_events(source)
    check_outputs([numbers, picture], options.overwrite)
    parts = {split: table.indices(split) for split in SPLITS if options.split in {split, "all"}}
    parts = {split: indices for split, indices in parts.items() if indices}
    if not parts:
        raise UserError(f"expected events of {options.split} in {source}, got none: choose another --split")
    results = {}
    with progress_bar() as bar:
        task = bar.add_task("counting", total=sum(map(len, parts.values())), note="")
        for split, indices in parts.items():
            counted = tally(
                table,
                indices,
                pairs=options.pairs,
                workers=options.workers,
                report=lambda count: bar.update(task, advance=count),
            )
            results[split] = summarise(counted, table)
    content = {
        "store": source.resolve().name,
        "quantity": table.quantity.name,
        "units": table.quantity.units,
        "time_step_seconds": table.time_step_seconds,
        "pairs_per_event": options.pairs,
        "files_not_there": list(files_not_there(table)),
        "splits": results,
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(numbers, lambda path: path.write_text(text))
    plot(picture, results, table.quantity, f"{source.resolve().name}: {len(table)} events of {table.quantity.name}")
    for split, found in results.items():
        print(_line(split, found))
    if files_not_there(table):
        print(f"without {len(files_not_there(table))} files of the catalogue that are not there")
    print(f"written {numbers} and {picture}")


if __name__ == "__main__":
    run(
        Options,
        main,
        prog="python -m data_tools.stats",
        description="Count intensities, exceedances, motion and missing data of an event store, by split.",
        examples="examples:\n"
        "  python -m data_tools.stats out/knmi.zarr\n"
        "  python -m data_tools.stats sevir --split train --pairs 2 --out out/sevir-train",
        positional=[("store", "an event store, or a folder of SEVIR")],
    )
