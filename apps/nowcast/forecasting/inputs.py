"""What a nowcast starts from: opening whatever holds radar frames, and reading the latest of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apps.nowcast.forecasting.archives import ArchiveFolder
from apps.nowcast.forecasting.choosing import choose, model_step
from apps.nowcast.forecasting.clock import Deadline
from apps.nowcast.forecasting.events import StoredEvent
from apps.nowcast.forecasting.scene import FrameSource, Place, Scene
from data_tools.cli import UserError
from data_tools.ingest import FORMATS
from data_tools.quantities import RAIN_FLOOR, RAINFALL_RATE

_NETCDF = {".nc", ".nc4", ".cdf", ".netcdf"}


def open_source(path: str | Path, event: str | None = None, at: np.datetime64 | None = None) -> FrameSource:
    """An archive folder, an event store, SEVIR's files, or a CF netCDF file or Zarr store.

    Raises:
        UserError: none of them, or a damaged one; `event` where there are no events.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"expected a folder of radar frames, a store or a netCDF file, got {path}, which is not there")
    if _holds_events(path):
        return StoredEvent.open(path, event, at)
    if event is not None:
        raise UserError(f"expected no --event for {path}, which holds no events: leave it out")
    if path.is_file() and path.suffix.lower() not in _NETCDF:
        raise UserError(f"expected a folder, a Zarr store or a netCDF file (.nc), got {path}; see data_tools.ingest")
    if path.is_file() or any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata")):
        from apps.nowcast.forecasting.cf import CfFile

        return CfFile.open(path)
    return ArchiveFolder.open(path)


def _holds_events(path: Path) -> bool:
    if path.suffix.lower() == ".csv":
        return True
    if path.is_dir() and any(path.glob("*.csv")):  # SEVIR's catalogue, or notes beside radar frames
        return not any(kind.time_of(file) is not None for file in path.iterdir() for kind in FORMATS.values())
    try:
        attributes = json.loads((path / "zarr.json").read_text("utf-8"))["attributes"]
        return "schema_version" in attributes
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def read_scene(
    source: FrameSource,
    count: int,
    known_minutes: Sequence[float] = (),
    at: np.datetime64 | None = None,
    deadline: Deadline | None = None,
) -> Scene:
    """The latest `count` frames of a source, see `choose` and `model_step`.

    A frame that cannot be read counts as one that is not there, and is told in the notes. The newest is read first;
    with a deadline that the others would miss, only those that were read make up the scene, one at least.

    Raises:
        UserError: what `choose` and `model_step` refuse; the newest frame shows nothing; frames on several grids.
    """
    usable = np.arange(len(source.times))
    frames: dict[int, tuple[np.ndarray, Place, tuple[str, ...]]] = {}
    notes = list(source.notes)
    while True:
        times = source.times[usable]
        step = model_step(times, known_minutes, source.usual_step)
        choice = choose(times, count, step, at)
        wanted = [int(usable[index]) for index in choice.indices]
        broken = _read_all(source, wanted, frames, notes, deadline)
        if not broken:
            break
        usable = usable[~np.isin(usable, broken)]
    times, substituted = choice.times, choice.substituted
    if unread := [place for place, index in enumerate(wanted) if index not in frames]:
        wanted, times = wanted[unread[-1] + 1 :], times[unread[-1] + 1 :]
        substituted = tuple(pair for pair in substituted if pair[0] >= times[0])
    place = frames[wanted[-1]][1]
    for index in wanted:
        if not _same(place, frames[index][1]):
            raise UserError(f"expected frames on one grid, got another at {source.times[index]}")
    notes += [note for index in sorted(set(wanted)) for note in frames[index][2]]
    stacked = np.stack([frames[index][0] for index in wanted]).astype(np.float32, copy=False)
    if not stacked.size or np.isnan(stacked).all():
        raise UserError(f"expected rain rates up to {choice.times[-1]}, got only missing pixels in {source.name}")
    most = float(np.nanmax(stacked))
    if source.quantity is RAINFALL_RATE and 0.0 < most < RAIN_FLOOR:
        notes.append(f"no pixel reaches {RAIN_FLOOR:g} mm/h, one has {most:.2g}: it is dry, or the units are wrong")
    return Scene(stacked, times, step, source.quantity, place, source.name, source.title, substituted, notes)


def _read_all(
    source: FrameSource,
    wanted: Sequence[int],
    frames: dict[int, tuple[np.ndarray, Place, tuple[str, ...]]],
    notes: list[str],
    deadline: Deadline | None,
) -> list[int]:
    """Read those `wanted` that are not yet in `frames`, the newest first; the indices of those that cannot be read.

    It ends early where another frame, as slow as the slowest, would leave less than the reserve of the deadline.

    Raises:
        UserError: the only error there is, where no frame has been read.
    """
    broken, first, slowest = [], None, 0.0
    for index in sorted(set(wanted) - frames.keys(), reverse=True):
        if deadline and wanted[-1] in frames and deadline.left < slowest:
            break
        began = deadline.elapsed if deadline else 0.0
        try:
            frames[index] = source.read(index)
        except UserError as error:
            first = first or error
            broken.append(index)
            notes.append(f"frame {source.times[index]} cannot be read: {error}")
        if deadline:
            slowest = max(slowest, deadline.elapsed - began)
            if index in frames:
                deadline.keep_for_writing(frames[index][0].size)
    if first is not None and not frames:
        raise first
    return broken


def _same(one: Place, two: Place) -> bool:
    if one is two:
        return True
    if one.shape != two.shape:
        return False
    slack = 1e-3 * max(abs(float(np.ptp(one.x))) / max(len(one.x) - 1, 1), 1e-12)
    return bool((np.abs(one.x - two.x) <= slack).all() and (np.abs(one.y - two.y) <= slack).all())
