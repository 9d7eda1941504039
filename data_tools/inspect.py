"""`python -m data_tools.inspect PATH`: a summary and a picture of a store or an archive, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from core.fitting import write_atomically
from data_tools.cli import UserError, beside, check_outputs, progress_bar, run
from data_tools.colours import COLOUR_SCALES, draw_frame
from data_tools.ingest import FORMATS
from data_tools.inspection import Report, inspect_hdf5, inspect_radar, inspect_sevir, inspect_store

LISTED = 20
"""Problems that are written out; the others are counted."""


@dataclass(frozen=True)
class Options:
    """Options of the command.

    Args:
        path: event store, folder or catalogue or HDF5 file of SEVIR, folder or file of knmi, fmi or mrms.
        event: id or number of the event in the picture (default: the middle one).
        verify: decode everything instead of what is shown; takes as long as reading it all.
        out: the picture, a PNG (default: PATH with .inspect.png).
        overwrite: replace a picture that exists.
    """

    path: str
    event: str | None = None
    verify: bool = False
    out: str | None = None
    overwrite: bool = False


def examine_path(path: Path, event: str | None = None, verify: bool = False) -> Report:
    """The report on whatever `path` holds.

    Raises:
        UserError: nothing there, or nothing that any reader knows.
    """
    if not path.exists():
        raise UserError(f"expected a store or an archive, got {path}, which is not there: check the path")
    if (path / "zarr.json").is_file() or (path / ".zgroup").is_file():
        return inspect_store(path, event, verify, _tracked)
    if path.suffix.lower() == ".csv" or (path.is_dir() and any(path.glob("*.csv"))):
        return inspect_sevir(path, event, verify, _tracked)
    files = [path] if path.is_file() else _files_below(path)
    known = {name: sum(kind.time_of(file) is not None for file in files) for name, kind in FORMATS.items()}
    name = max(known, key=lambda name: known[name])
    if known[name]:
        if event is not None:
            raise UserError(f"expected no --event for {name}, which has frames and no events: leave it out")
        return inspect_radar(path, FORMATS[name], files, verify, _tracked)
    if path.is_file() and (path.suffix in {".h5", ".hdf5"} or h5py.is_hdf5(path)):
        return inspect_hdf5(path, event)
    raise UserError(
        f"expected an event store, SEVIR (CATALOG.csv or a HDF5 file) or frames of {', '.join(FORMATS)}, got {path}, "
        "which holds none of them: check the path"
    )


def _files_below(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.rglob("*") if entry.is_file() and not entry.name.startswith("."))


def _tracked(things: Iterable[Any], total: int, title: str) -> Iterator[Any]:
    with progress_bar() as bar:
        task = bar.add_task(title, total=total, note="")
        for thing in things:
            yield thing
            bar.update(task, advance=1)


def picture(path: Path, report: Report, title: str) -> None:
    """A row of frames on the quantity's colours, north up."""
    scale, count = COLOUR_SCALES[report.quantity], len(report.frames)
    height, width = report.frames[0][1].shape
    side, bar = 2.0, 0.9
    size = (count * side + 0.2 + bar, max(side * height / width, 1.6) + 0.8)
    figure = Figure(figsize=size, dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    for column, (label, frame) in enumerate(report.frames):
        box = ((0.1 + column * side) / size[0], 0.1 / size[1], (side - 0.05) / size[0], side * height / width / size[1])
        axes = figure.add_axes(box)
        draw_frame(axes, frame, scale, north_up=report.north_up)
        axes.set_title(label, fontsize=7, pad=3)
    colormap, norm = scale.colormap()
    beside = figure.add_axes((1.0 - (bar - 0.05) / size[0], 0.1 / size[1], 0.12 / size[0], (size[1] - 0.8) / size[1]))
    figure.colorbar(ScalarMappable(norm, colormap), cax=beside, ticks=scale.edges, spacing="uniform")
    beside.set_yticklabels([f"{edge:g}" for edge in scale.edges])
    beside.tick_params(labelsize=6, length=2)
    figure.text(0.1 / size[0], 1.0 - 0.2 / size[1], f"{title}: {scale.label}", fontsize=10, va="center")
    write_atomically(path, lambda part: figure.savefig(part, format="png"))


def main(options: Options) -> None:
    path = Path(options.path)
    out = Path(options.out) if options.out else beside(path, lambda name: f"{name}.inspect.png")
    if path.exists():
        check_outputs([out], options.overwrite)
    report = examine_path(path, options.event, options.verify)
    print(f"{path}: {report.kind}")
    for line in report.lines:
        print(f"  {line}")
    for problem in report.problems[:LISTED]:
        print(f"  problem: {problem}")
    if len(report.problems) > LISTED:
        print(f"  and {len(report.problems) - LISTED} problems more")
    if report.frames and any(np.isfinite(frame).any() for _, frame in report.frames):
        picture(out, report, path.resolve().name)
        print(f"  picture: {out}")
    if report.problems:
        others = f" and {len(report.problems) - 1} problems more" if len(report.problems) > 1 else ""
        raise UserError(f"expected a whole {report.kind}, got one with damage: {report.problems[0]}{others}")


if __name__ == "__main__":
    run(
        Options,
        main,
        prog="python -m data_tools.inspect",
        description="Summarise and draw an event store or a radar archive, and say what is wrong with it.",
        examples="examples:\n"
        "  python -m data_tools.inspect out/knmi.zarr --event 3\n"
        "  python -m data_tools.inspect sevir --verify --out out/sevir.png\n"
        "  python -m data_tools.inspect radar/knmi",
        positional=[("path", "event store, SEVIR (folder, catalogue or HDF5 file), or frames of knmi, fmi or mrms")],
    )
