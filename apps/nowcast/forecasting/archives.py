"""Folders of radar frames as the publishers name them: KNMI, FMI, MRMS."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from apps.nowcast.forecasting.scene import Place
from data_tools.archive import Format, Stamp
from data_tools.cli import UserError
from data_tools.ingest import FORMATS
from data_tools.quantities import RAINFALL_RATE, Quantity
from data_tools.schema import unpack


@dataclass(frozen=True)
class ArchiveFolder:
    """A folder, with its subfolders, in which the files of one format are frames; other files are passed over."""

    kind: Format
    stamps: tuple[Stamp, ...]
    notes: tuple[str, ...] = ()
    quantity: Quantity = RAINFALL_RATE

    @classmethod
    def open(cls, folder: Path) -> ArchiveFolder:
        """List the frames of a folder; of several files of one time, the one that changed last.

        Raises:
            UserError: no frame of a known format, or frames of several formats.
        """
        stamps: dict[str, list[Stamp]] = {name: [] for name in FORMATS}
        others = 0
        for path in sorted(folder.rglob("*")):
            if path.name.startswith(".") or not path.is_file():
                continue
            told = {name: time for name, kind in FORMATS.items() if (time := kind.time_of(path)) is not None}
            for name, time in told.items():
                stamps[name].append(Stamp(time, path))
            others += not told
        found = [name for name, listed in stamps.items() if listed]
        if len(found) != 1:
            got = f"frames of {', '.join(found)}" if found else "none"
            raise UserError(f"expected radar frames of one of {', '.join(FORMATS)} in {folder}, got {got}")
        listed, notes = _one_a_time(stamps[found[0]])
        if others:
            notes += (f"{others} other files were passed over",)
        return cls(FORMATS[found[0]], listed, notes)

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def title(self) -> str:
        return f"{self.kind.source}; {self.kind.licence}; rain rates: {self.kind.rate}"

    @property
    def times(self) -> np.ndarray:
        return np.array([stamp.time for stamp in self.stamps], "datetime64[s]")

    @property
    def usual_step(self) -> int | None:
        return self.kind.step_seconds

    def read(self, index: int) -> tuple[np.ndarray, Place, tuple[str, ...]]:
        path = self.stamps[index].path
        (codes,) = self.kind.read([path])
        return unpack(codes, RAINFALL_RATE), Place.of_grid(self.kind.grid(path)), ()


def _one_a_time(stamps: list[Stamp]) -> tuple[tuple[Stamp, ...], tuple[str, ...]]:
    """(a file for each time, rising; what to say of those that were left out).

    A composite that is sent again, corrected or moved to another subfolder, comes in a second file: the newer counts.
    """
    kept, doubled, example = [], 0, ""
    for time, group in groupby(sorted(stamps), key=lambda stamp: stamp.time):
        *others, newest = sorted(group, key=lambda stamp: (_changed(stamp.path), stamp.path))
        kept.append(newest)
        if others:
            doubled, example = doubled + 1, f"{newest.path.name}, not {others[-1].path.name}, at {time}"
            if newest.path.name == others[-1].path.name:
                example = f"{newest.path}, not {others[-1].path}, at {time}"
    told = f"several files of one time, {doubled} in all: the last changed counts: {example}"
    return tuple(kept), (told,) if doubled else ()


def _changed(path: Path) -> int:
    """When a file was changed, in nanoseconds; of one that went away, before all others."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -1
