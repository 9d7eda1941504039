"""Running as each new frame lands in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apps.nowcast.forecasting.archives import ArchiveFolder
from data_tools.cli import UserError


@dataclass(frozen=True)
class Landed:
    """A new frame: its time, and when it was seen on the clock of `time.monotonic`."""

    time: np.datetime64
    seen: float


def stamped(out: Path, moment: np.datetime64) -> Path:
    """The output of the nowcast that begins at `moment`: its time stands before the suffix."""
    return out.with_stem(f"{out.stem}-{moment.item():%Y%m%dT%H%M%SZ}")


def watch(
    folder: Path,
    serve: Callable[[Landed], None],
    *,
    poll: float,
    runs: int,
    complain: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Call `serve` for the newest frame of a folder, then for each newer one as soon as its file has stopped growing.

    Frames that land while one is served are not queued: of several, the newest counts.

    Args:
        folder: an archive folder; frames may be put into subfolders too.
        serve: may raise UserError, which is told and does not end the watch; it is called again if the file changes.
        poll: seconds between looks.
        runs: end after so many calls that succeeded; 0 goes on until interrupted.
        complain: told what is wrong, once for each frame.
    """
    done, told = 0, ""
    served: np.datetime64 | None = None
    failed: tuple[Path, tuple[int, int]] | None = None
    while not runs or done < runs:
        newest, problem = _newest(folder)
        if problem and problem != told:
            complain(problem)
            told = problem
        fresh = newest is not None and (served is None or newest[0] > served)
        if newest is None or not fresh or (newest[1], state := _state(newest[1])) == failed:
            sleep(poll)
            continue
        seen = time.monotonic()
        before = None
        while state != before:
            sleep(min(poll, 0.2))  # a file that grows is still being written
            before, state = state, _state(newest[1])
        try:
            serve(Landed(newest[0], seen))
            done, served = done + 1, newest[0]
        except UserError as error:
            failed = newest[1], state  # its writer may have paused: once more when the file has changed
            complain(str(error))


def _state(path: Path) -> tuple[int, int]:
    """(size, time of change) of a file; of one that is not there, below 0."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _newest(folder: Path) -> tuple[tuple[np.datetime64, Path] | None, str]:
    """((time, file) of the newest frame, what is wrong)."""
    try:
        stamp = ArchiveFolder.open(folder).stamps[-1]
        return (stamp.time, stamp.path), ""
    except UserError as error:
        return None, str(error)
    except OSError:  # a file that went away while the folder was listed
        return None, ""
