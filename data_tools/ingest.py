"""`python -m data_tools.ingest SRC --format knmi|fmi|mrms|sevir|store --out STORE.zarr`: archives to an event store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_tools.archive import (
    Format,
    Stamp,
    between,
    describe_sessions,
    list_frames,
    number_runs,
    session_gaps,
    time_step,
)
from data_tools.cli import UserError, console, run
from data_tools.fmi import Fmi
from data_tools.knmi import Knmi
from data_tools.mrms import Mrms
from data_tools.progress import moving_bar
from data_tools.quantities import RAINFALL_RATE, VIL
from data_tools.recut import StoredArchive
from data_tools.sevir import CRS, SevirArchive, SevirCut
from data_tools.store import Event, require_free, write_store
from data_tools.windows import Cut, chronological, cut_windows, longest_stretch

Frame = tuple[Stamp, str | None, np.ndarray]

FORMATS: dict[str, Format] = {kind.name: kind for kind in (Knmi(), Fmi(), Mrms())}


@dataclass(frozen=True)
class Options:
    """Options of the command.

    Args:
        src: folder of the archive, searched with its subfolders, or an event store.
        out: the event store to write.
        format: what the archive is; store is an event store of rain rates with larger frames or longer events, made
            by data_tools.storms or from arrays of your own (data_tools.store.write_store): it is cut and split anew.
        patch: height and width of a window in pixels of the archive.
        frames: frames of a window.
        stride: frames between the starts of training windows (default: as many as a window has; sevir half of it).
        eval_stride: the same for val and test windows.
        overlap: pixels that neighbouring training windows share.
        wet_fraction: least share of pixels with 0.5 mm/h or more, averaged over a window.
        max_missing: greatest share of missing pixels in any frame of a window.
        splits: end of train, end of val and start of test as fractions of the frames in time (sevir has dates).
        split: put every window in this split instead.
        start: first time to read, UTC, like 2010-08-26T04:30.
        end: last time to read, UTC.
        frame_step: read every n-th frame (default: 2 for 2-minute mrms and SEVIR that is reduced in size, else 1).
        gaps: what to do about a missing or wholly masked frame; split cuts windows around it.
        overwrite: replace an event store that exists.
    """

    src: str
    out: str
    format: Literal["knmi", "fmi", "mrms", "sevir", "store"]
    patch: int = 128
    frames: int = 13
    stride: int | None = None
    eval_stride: int | None = None
    overlap: int = 0
    wet_fraction: float = 0.05
    max_missing: float = 0.02
    splits: tuple[float, float, float] = (0.45, 0.60, 0.67)
    split: Literal["train", "val", "test"] | None = None
    start: str | None = None
    end: str | None = None
    frame_step: int | None = None
    gaps: Literal["refuse", "split"] = "refuse"
    overwrite: bool = False


def ingest_radar(options: Options, kind: Format) -> Counter[str]:
    """Cut the windows of a radar archive into a store and return their number by split.

    Raises:
        UserError: whatever is wrong with the archive or the options; nothing is written then.
    """
    cut = Cut(
        patch=options.patch,
        frames=options.frames,
        stride=options.frames if options.stride is None else options.stride,
        eval_stride=options.frames if options.eval_stride is None else options.eval_stride,
        overlap=options.overlap,
        wet_fraction=options.wet_fraction,
        max_missing=options.max_missing,
    )
    stamps, splits, step = plan(options, kind)
    grid = kind.grid(stamps[0].path)
    counts: Counter[str] = Counter()
    with moving_bar(f"reading {kind.name}", len(stamps)) as advance:
        codes = kind.read([stamp.path for stamp in stamps])
        frames = _advancing(zip(stamps, splits, codes, strict=True), advance)
        windows = cut_windows(frames, grid, cut, source=kind.name, gaps_split=options.gaps == "split")
        write_store(
            options.out,
            _counted(
                windows, counts, f"{cut.wet_fraction:g} of their pixels wet and at most {cut.max_missing:g} missing"
            ),
            quantity=RAINFALL_RATE,
            time_step_seconds=step,
            crs=grid.crs,
            attrs={"source": kind.source, "licence": kind.licence, "rate": kind.rate, "cut": str(cut)},
            overwrite=options.overwrite,
            pixel_size=grid.pixel_size,
            pixel_units=grid.units,
        )
    if options.split is None and set(splits) == {"train"}:
        console.print(f"{len(stamps)} frames do not make parts of {cut.frames}: all went to train (--split to choose)")
    gaps = session_gaps(stamps)
    if gaps:
        console.print(describe_sessions(gaps), soft_wrap=True, highlight=False)  # one line however narrow the terminal
    return counts


def plan(options: Options, kind: Format) -> tuple[list[Stamp], list[str | None], int]:
    """Which files are read, the split of each, and the time step between them in seconds.

    An archive too short for the chronological parts to hold one window goes to train as a whole.

    Raises:
        UserError: what `list_frames`, `number_runs` and `chronological` refuse; no unbroken run as long as a window.
    """
    if isinstance(kind, StoredArchive):
        listed = between(kind.stamps(), options.start, options.end)
    else:
        listed = list_frames(Path(options.src), kind, options.start, options.end)
    step = time_step(listed)
    frame_step = max(1, kind.step_seconds // step) if options.frame_step is None else options.frame_step
    if frame_step < 1:
        raise UserError(f"expected --frame_step of 1 or more, got {frame_step}")
    stamps = number_runs(listed, step, frame_step, options.gaps == "split")
    splits = chronological(len(stamps), options.splits)
    if options.split is not None or longest_stretch(stamps, splits) < options.frames:
        splits: list[str | None] = [options.split or "train"] * len(stamps)
    longest = longest_stretch(stamps, splits)
    if longest < options.frames:
        raise UserError(
            f"expected at least {options.frames} successive frames, got {longest} in {options.src}: "
            "add frames or lower --frames"
        )
    return stamps, splits, step * frame_step


def ingest_sevir(options: Options) -> Counter[str]:
    """Cut the windows of a SEVIR archive into a store and return their number by split.

    Raises:
        UserError: whatever is wrong with the archive or the options; nothing is written then.
    """
    for name in ("overlap", "wet_fraction", "splits"):
        if getattr(options, name) != getattr(Options, name):
            raise UserError(
                f"expected no --{name} for sevir, whose events are whole storms split by date: leave it out"
            )
    cut = SevirCut(
        patch=options.patch,
        frames=options.frames,
        stride=options.stride,
        eval_stride=options.eval_stride,
        frame_step=options.frame_step,
        max_missing=options.max_missing,
        split=options.split,
        start=options.start,
        end=options.end,
        skip_gaps=options.gaps == "split",
    )
    archive = SevirArchive.open(options.src, cut)
    counts: Counter[str] = Counter()
    with moving_bar("reading sevir", len(archive.entries)) as advance:
        windows = _advancing_by_storm(archive.events(), advance)
        write_store(
            options.out,
            _counted(windows, counts, f"at most {cut.max_missing:g} of their pixels missing"),
            quantity=VIL,
            time_step_seconds=archive.time_step_seconds,
            crs=CRS,
            attrs=archive.attrs,
            overwrite=options.overwrite,
            pixel_size=archive.pixel_size,
        )
    return counts


def _advancing(frames: Iterable[Frame], advance: Callable[..., None]) -> Iterator[Frame]:
    for position, frame in enumerate(frames, start=1):
        yield frame
        advance(position)


def _advancing_by_storm(events: Iterable[Event], advance: Callable[..., None]) -> Iterator[Event]:
    storms: set[str] = set()
    for event in events:
        storms.add(event.id.rpartition("-")[0])
        yield event
        advance(len(storms))


def _counted(events: Iterable[Event], counts: Counter[str], wanted: str) -> Iterator[Event]:
    for event in events:
        counts[event.split] += 1
        yield event
    if not counts:
        raise UserError(f"expected windows with {wanted}, got none: change --wet_fraction or --max_missing")


def _stored(options: Options) -> StoredArchive:
    """The store to cut; what is cut from it must not take its place, nor lie within it."""
    out = Path(options.out).resolve()
    if Path(options.src).resolve() in (out, *out.parents):
        raise UserError(f"expected --out outside the store that is read, got {options.out}: choose another place")
    return StoredArchive.open(options.src)


def main(options: Options) -> None:
    require_free(options.out, options.overwrite)
    if options.format == "sevir":
        counts = ingest_sevir(options)
    else:
        kind = _stored(options) if options.format == "store" else FORMATS[options.format]
        counts = ingest_radar(options, kind)
    parts = ", ".join(f"{number} {split}" for split, number in sorted(counts.items()))
    print(f"{options.out}: {sum(counts.values())} events ({parts})")


if __name__ == "__main__":
    run(
        Options,
        main,
        prog="python -m data_tools.ingest",
        description="Cut storm windows out of a radar archive into an event store.",
        examples="examples:\n  python -m data_tools.ingest radar/knmi --format knmi --out out/knmi.zarr\n"
        "  python -m data_tools.ingest out/large.zarr --format store --patch 128 --out out/windows.zarr",
        positional=[("src", "folder of the archive, searched with its subfolders, or an event store")],
    )
