"""What there is to say about a store or an archive: a summary in lines, what is wrong with it, and some frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from data_tools.archive import Format, Stamp, time_step
from data_tools.catalog import Entry, read_catalog, select
from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE, VIL
from data_tools.schema import examine, unpack
from data_tools.sevir import split_of
from data_tools.sevir_files import find_catalog, ids_in, opened, read_event, shape_of, text_of
from data_tools.sources import pixel_of
from data_tools.store import EventStore

Track = Callable[[Iterable, int, str], Iterable]
"""(things, how many, what is done) -> the same things with a progress bar."""

SHOWN = 8
"""Frames in the picture."""


@dataclass
class Report:
    """What was found.

    Attributes:
        kind: what the path holds, in a few words.
        lines: the summary.
        problems: what is wrong, in words.
        frames: (label, (y, x) float32, NaN missing) of the picture.
        quantity: name of what the frames hold.
        north_up: row 0 is the northernmost.
    """

    kind: str
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    frames: list[tuple[str, np.ndarray]] = field(default_factory=list)
    quantity: str = VIL.name
    north_up: bool = True


def _spread(count: int) -> list[int]:
    """Up to `SHOWN` positions out of `count`, evenly spread, first and last among them."""
    return sorted({round(position) for position in np.linspace(0, count - 1, min(SHOWN, count))})


def _choose(ids: list[str], event: str | None, where: Path) -> int:
    """Position of the event with that id or number; the middle one of None."""
    if event is None:
        return len(ids) // 2
    if event in ids:
        return ids.index(event)
    if event.isdecimal() and int(event) < len(ids):
        return int(event)
    raise UserError(f"expected --event as an id or a number from 0 to {len(ids) - 1} of {where}, got {event!r}")


def inspect_store(path: Path, event: str | None, verify: bool, track: Track) -> Report:
    """An event store; with `verify` every chunk is decoded, else only its being there is looked at."""
    report = Report("event store")
    contents, problems = examine(path)
    if contents is None:
        report.problems = problems
        return report
    store = EventStore.open(path)
    width, height, units = pixel_of(store)
    report.quantity, report.north_up = store.quantity.name, height < 0
    step, chunks = store.time_step_seconds, store.fields.chunks
    parts = Counter(store.splits)
    report.lines += [
        f"{store.quantity.long_name} ({store.quantity.name}), units {store.quantity.units}",
        f"{store.shape[0]} events of {store.shape[1]} frames {step:g} s apart, {store.shape[2]} x {store.shape[3]} "
        f"pixels of {abs(width):g} x {abs(height):g} {units}",
        "splits: " + ", ".join(f"{parts[name]} {name}" for name in parts),
        f"times: {store.valid_times.min()} to {store.valid_times.max()} UTC",
        f"sources: {', '.join(f'{number} {name}' for name, number in Counter(store.sources).items())}",
        f"chunks {chunks}, {_size(path) / 1e6:.1f} MB on disk for {store.fields.nbytes / 1e6:.1f} MB",
        f"ids: {store.ids[0]} to {store.ids[-1]}",
        *(f"{name}: {store.attrs[name]}" for name in ("source", "licence", "cut", "history") if name in store.attrs),
    ]
    damaged = _damaged_chunks(store, verify, track)
    report.problems += damaged
    chosen = _choose(list(store.ids), event, path)
    report.lines.append(f"shown: {store.ids[chosen]}")
    readable = EventStore.open(path, skip_damaged=True)
    for frame in _spread(store.shape[1]):
        values = readable.read(chosen, slice(frame, frame + 1))[0]
        report.frames.append((f"{store.ids[chosen]}\n{store.valid_times[chosen, frame]}", values))
    return report


def _size(path: Path) -> int:
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())


def _damaged_chunks(store: EventStore, verify: bool, track: Track) -> list[str]:
    """Each chunk that is gone or, with `verify`, cannot be decoded, named."""
    length, problems = store.fields.chunks[1], []
    for index in track(range(len(store)), len(store), "reading" if verify else "looking for chunks"):
        for number, first in enumerate(range(0, store.shape[1], length)):
            key = store.fields.metadata.encode_chunk_key((index, number, 0, 0))
            if not verify and not (store.path / store.quantity.name / key).is_file():
                problems.append(f"chunk {store.quantity.name}/{key} of event {store.ids[index]} is gone")
            elif verify:
                try:
                    store.read_codes(index, slice(first, min(first + length, store.shape[1])))
                except UserError as error:
                    problems.append(str(error))
    return problems


def inspect_sevir(path: Path, event: str | None, verify: bool, track: Track) -> Report:
    """A folder of SEVIR or its catalogue: every file is opened; with `verify` every event of VIL is read."""
    report = Report("SEVIR archive", north_up=False)
    catalog = find_catalog(path)
    rows = read_catalog(catalog)
    kinds = Counter(row.img_type for row in rows)
    entries = select(rows)
    data = catalog.parent / "data" if (catalog.parent / "data").is_dir() else catalog.parent
    times = Counter(row.id for row in rows if row.img_type == "vil")
    doubled = sorted(name for name, number in times.items() if number > 1)
    parts = sorted(Counter(split_of(entry.time) for entry in entries).items())
    report.lines += [
        f"{catalog.name}: {len(rows)} rows, " + ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())),
        f"vil: {len(entries)} events with nothing missing ({', '.join(f'{n} {part}' for part, n in parts)} by date)",
        f"{len(doubled)} ids stand more than once and are left out"
        + (f": {', '.join(doubled[:5])}" if doubled else ""),
    ]
    if rows:
        report.lines.append(f"times: {min(row.time for row in rows)} to {max(row.time for row in rows)} UTC")
    shapes = _look_into_files(report, data, entries)
    present = [entry for entry in entries if entry.file_name in shapes]
    if len(set(shapes.values())) > 1:
        report.problems.append(f"expected files of one shape, got {sorted(set(shapes.values()))}")
    if verify:
        _read_all(report, data, present, track)
    if present:
        _show_event(report, data, present[_choose([entry.id for entry in present], event, path)])
    return report


def _look_into_files(report: Report, data: Path, entries: list[Entry]) -> dict[str, tuple[int, int, int]]:
    """(H, W, T) of the files that are there and whole; the others become problems, but for years left out wholly."""
    shapes: dict[str, tuple[int, int, int]] = {}
    files = Counter(entry.file_name for entry in entries)
    absent = {str(Path(name).parent) for name in files if not (data / name).parent.is_dir()}
    if absent == {str(Path(name).parent) for name in files}:
        absent = set()  # not a part of the archive: all of it
    for folder in sorted(absent):
        inside = [number for name, number in files.items() if str(Path(name).parent) == folder]
        report.lines.append(f"not downloaded: {folder}, {len(inside)} files with {sum(inside)} events")
    for name, number in sorted(files.items()):
        if str(Path(name).parent) in absent:
            continue
        if not (data / name).is_file():
            report.problems.append(f"{name} with {number} events of the catalogue is not there: download it")
            continue
        try:
            shapes[name] = shape_of(data / name)
        except UserError as error:
            report.problems.append(str(error))
            continue
        height, width, frames = shapes[name]
        size = (data / name).stat().st_size / 1e6
        report.lines.append(f"{name}: {number} events of {frames} frames, {height} x {width} pixels, {size:.1f} MB")
    return shapes


def _read_all(report: Report, data: Path, entries: list[Entry], track: Track) -> None:
    by_file = sorted(entries, key=lambda entry: (entry.file_name, entry.file_index))
    for entry in track(by_file, len(by_file), "reading"):
        try:
            with opened(data / entry.file_name) as file:
                read_event(file, entry, data / entry.file_name)
        except UserError as error:
            report.problems.append(str(error))


def _show_event(report: Report, data: Path, entry: Entry) -> None:
    report.lines.append(f"shown: {entry.id}, {entry.time} UTC")
    try:
        with opened(data / entry.file_name) as file:
            codes = read_event(file, entry, data / entry.file_name)
    except UserError as error:
        report.problems.append(str(error))
        return
    report.frames = [(f"{entry.id}\nframe {frame}", unpack(codes[frame], VIL)) for frame in _spread(len(codes))]


def inspect_hdf5(path: Path, event: str | None) -> Report:
    """One HDF5 file of SEVIR's VIL."""
    report = Report("SEVIR file", north_up=False)
    try:
        height, width, frames = shape_of(path)
        with opened(path) as file:
            vil = file["vil"]
            assert isinstance(vil, h5py.Dataset)  # `shape_of` saw to it
            names = ids_in(file, path)
            ids = [str(n) for n in range(len(vil))] if names is None else [text_of(name) for name in names]
            report.lines += [
                f"vil: {len(vil)} events of {frames} frames, {height} x {width} pixels, {vil.dtype}",
                f"stored in chunks of {vil.chunks}, compression {vil.compression}"
                if vil.chunks
                else "stored in one piece",
                f"ids: {ids[0]} to {ids[-1]}, {len(set(ids))} of {len(ids)} different" if ids else "no events",
            ]
            if ids:
                chosen = _choose(ids, event, path)
                report.lines.append(f"shown: {ids[chosen]}")
                codes = np.moveaxis(vil[chosen], -1, 0)
                report.frames = [(f"{ids[chosen]}\nframe {one}", unpack(codes[one], VIL)) for one in _spread(frames)]
    except UserError as error:
        report.problems.append(str(error))
    except OSError as error:
        report.problems.append(f"a part of {path} cannot be read ({' '.join(str(error).split())}): download it again")
    return report


def inspect_radar(path: Path, kind: Format, files: list[Path], verify: bool, track: Track) -> Report:
    """A folder (or one file) of an archive of rain rates; with `verify` every frame is decoded, else those shown."""
    report = Report(f"{kind.name} archive", quantity=RAINFALL_RATE.name)
    foreign = [file for file in files if kind.time_of(file) is None]
    stamps = sorted(Stamp(time, file) for file in files if (time := kind.time_of(file)) is not None)
    report.problems += [f"{file.name} is no {kind.name} file: move it away" for file in foreign[:10]]
    report.problems += [
        f"{one.path.name} and {two.path.name} have one time {one.time}: move one away"
        for one, two in pairwise(stamps)
        if one.time == two.time
    ]
    report.lines += [kind.source, f"licence: {kind.licence}", f"rate: {kind.rate}"]
    report.lines.append(f"{len(stamps)} frames, {stamps[0].time} to {stamps[-1].time} UTC")
    report.lines += _describe_steps(stamps)
    shown = {stamps[position].path for position in _spread(len(stamps))}
    chosen = [stamp for stamp in stamps if verify or stamp.path in shown]
    missing = RAINFALL_RATE.storage[2]
    for stamp in track(chosen, len(chosen), "reading"):
        try:
            (codes,) = kind.read([stamp.path])
        except UserError as error:
            report.problems.append(str(error))
            continue
        if (codes == missing).all():
            report.problems.append(f"{stamp.path.name} has nothing but missing pixels")
        if stamp.path in shown:
            report.frames.append((str(stamp.time), unpack(codes, RAINFALL_RATE)))
    if report.frames:
        rows, columns = report.frames[0][1].shape
        wet = np.mean([(frame >= 0.5).mean() for _, frame in report.frames])
        report.lines.append(
            f"{rows} x {columns} pixels; of the frames shown {100 * wet:.1f} % of pixels have 0.5 mm/h or more"
        )
    return report


def _describe_steps(stamps: list[Stamp]) -> list[str]:
    if len(stamps) < 2:
        return []
    step = time_step(stamps)
    gaps = [(one, two) for one, two in pairwise(stamps) if two.time - one.time > np.timedelta64(step, "s")]
    lines = [f"a frame every {step} s, {len(gaps)} gaps"]
    return lines + [f"gap: {one.time} to {two.time}" for one, two in gaps[:5]]
