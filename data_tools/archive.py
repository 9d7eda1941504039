"""Radar archives as folders of frames: what a format must offer, and how a folder becomes an ordered list of frames."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE

SESSION_GAP_SECONDS = 3 * 3600
"""Frames farther apart are two events put in one archive, not an archive with a hole."""

_, RATE_STEP, MISSING = RAINFALL_RATE.storage
"""Readers give frames in the store's own code: uint16, RATE_STEP = 0.01 mm/h, MISSING = 65535."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the pixels of a frame lie.

    Attributes:
        shape: (rows, columns).
        x0, y0: projection coordinates of the outer corner of pixel [0, 0], in `units`.
        pixel_size: (width, height) in `units`; height is negative, as row 0 is the northernmost in all formats here.
        units: CF units of the projection coordinates.
        crs: CF grid-mapping attributes.
    """

    shape: tuple[int, int]
    x0: float
    y0: float
    pixel_size: tuple[float, float]
    units: str
    crs: Mapping[str, Any]

    def require_same(self, other: Grid, path: Path) -> None:
        """Raise `UserError` unless the frame of `path`, whose grid is `other`, lies where the frames of this grid lie.

        Headers may differ in their last digits: up to a part in a million of a length or an angle and a thousandth of
        a pixel are forgiven.
        """
        if other.shape != self.shape:
            raise UserError(f"expected frames of {self.shape} like the first, got {other.shape} in {path.name}")
        names = {"units": self.units, **self.crs, **self._numbers()}
        others = {"units": other.units, **other.crs, **other._numbers()}
        for name in names | others:
            one, two = names.get(name), others.get(name)
            if not _same(one, two, 1e-3 * abs(self.pixel_size[0]) if name in {"x0", "y0"} else None):
                got = f"{two} in {path.name}: ingest it separately"
                raise UserError(f"expected frames on one grid, {name} {one} like the first, got {got}")

    def _numbers(self) -> dict[str, float]:
        return {"x0": self.x0, "y0": self.y0, "pixel width": self.pixel_size[0], "pixel height": self.pixel_size[1]}


def _same(one: Any, two: Any, slack: float | None) -> bool:
    """Equality, of numbers within `slack` or, if None, a part in a million."""
    if not isinstance(one, float) or not isinstance(two, float):
        return one == two
    return abs(one - two) <= (1e-6 * abs(one) if slack is None else slack)


def on_one_grid(frames: Iterable[tuple[Path, Grid, np.ndarray]]) -> Iterator[np.ndarray]:
    """The arrays of `frames`, each of which must lie on the grid of the first (`UserError` if not)."""
    first: Grid | None = None
    for path, grid, codes in frames:
        first = first or grid
        first.require_same(grid, path)
        yield codes


class Format(Protocol):
    """A kind of radar archive, one file a frame.

    Attributes:
        name: as the user calls it; also the `source` of its events.
        source: what the archive is, for the attributes of the store.
        licence: under which terms its publisher gives it.
        step_seconds: the time step that suits a nowcast; every n-th frame of a finer archive is read by default.
        rate: how rain rates were made of what the files hold.
    """

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def step_seconds(self) -> int: ...
    @property
    def rate(self) -> str: ...

    def time_of(self, path: Path) -> np.datetime64 | None:
        """Valid time (UTC, seconds) that the file's name tells, None for a name of another kind."""
        ...

    def grid(self, path: Path) -> Grid:
        """The grid of the frames, from the header of one of them. Raises `UserError` for a foreign file."""
        ...

    def read(self, paths: Sequence[Path]) -> Iterator[np.ndarray]:
        """Frames in the order of `paths` as uint16 codes (see `RATE_STEP`), one in memory at a time.

        Raises `UserError` for a truncated or foreign file, or one whose header tells another time than its name or
        another grid than that of the first.
        """
        ...


class Stamp(NamedTuple):
    """One file of an archive, with the number of the unbroken run of frames it belongs to."""

    time: np.datetime64
    path: Path
    run: int = 0


def parse_stamp(digits: str) -> np.datetime64 | None:
    """`YYYYmmddHHMM` or `YYYYmmddHHMMSS` to datetime64[s]; None where the digits are no date."""
    if not re.fullmatch(r"[0-9]{12}([0-9]{2})?", digits):
        return None
    try:
        return np.datetime64(datetime.strptime(digits.ljust(14, "0"), "%Y%m%d%H%M%S"), "s")
    except ValueError:
        return None


def parse_utc(text: str, option: str) -> np.datetime64:
    """A time given by a user, UTC: ISO 8601, with or without a trailing Z."""
    try:
        moment = datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is not None:
        raise UserError(f"expected {option} as a UTC time like 2010-08-26T04:30, got {text!r}")
    return np.datetime64(moment, "s")


def list_frames(folder: Path, kind: Format, start: str | None = None, end: str | None = None) -> list[Stamp]:
    """All frames below `folder` in the order of time, from `start` to `end` (UTC, both included).

    Raises:
        UserError: no such folder, an empty one, a file of another kind in it, or two files of one time.
    """
    if not folder.is_dir():
        raise UserError(f"expected a folder of {kind.name} files, got {folder}, which is {_what(folder)}")
    stamps = []
    for path in sorted(entry for entry in folder.rglob("*") if entry.is_file() and not entry.name.startswith(".")):
        time = kind.time_of(path)
        if time is None:
            got = f"{path.name}: move it away or fix --format"
            raise UserError(f"expected only {kind.name} files in {folder}, got {got}")
        stamps.append(Stamp(time, path))
    if not stamps:
        raise UserError(f"expected {kind.name} files in {folder}, got none")
    stamps.sort()
    for one, two in pairwise(stamps):
        if one.time == two.time:
            raise UserError(f"expected one file a time, got {one.path} and {two.path} at {one.time}: move one away")
    return between(stamps, start, end)


def between(stamps: Sequence[Stamp], start: str | None, end: str | None) -> list[Stamp]:
    """Those of `stamps`, which are in the order of time, from `start` to `end` (UTC, both included).

    Raises:
        UserError: none is.
    """
    first = parse_utc(start, "--start") if start else stamps[0].time
    last = parse_utc(end, "--end") if end else stamps[-1].time
    chosen = [stamp for stamp in stamps if first <= stamp.time <= last]
    if not chosen:
        got = f"none: the archive has {stamps[0].time} to {stamps[-1].time}"
        raise UserError(f"expected frames from {first} to {last}, got {got}")
    return chosen


def _what(path: Path) -> str:
    return "a file" if path.exists() else "not there"


def time_step(stamps: Sequence[Stamp]) -> int:
    """The archive's own time step in seconds: the most frequent one."""
    steps = Counter(_seconds(one, two) for one, two in pairwise(stamps))
    if not steps:
        raise UserError(f"expected an archive of several frames, got one, of {stamps[0].time}: add more")
    return steps.most_common(1)[0][0]


def _seconds(one: Stamp, two: Stamp) -> int:
    return int((two.time - one.time) / np.timedelta64(1, "s"))


def number_runs(stamps: Sequence[Stamp], step: int, frame_step: int, split_at_gaps: bool) -> list[Stamp]:
    """Keep every `frame_step`-th frame and number the unbroken runs.

    A run ends where the archive pauses for `SESSION_GAP_SECONDS` or more. A smaller gap among the kept
    frames, or a frame off the archive's time step, ends a run if `split_at_gaps` and is refused if not.

    Raises:
        UserError: a gap, unless `split_at_gaps`.
    """
    kept: list[Stamp] = []
    origin, run = stamps[0], 0
    for before, stamp in zip((None, *stamps[:-1]), stamps, strict=True):
        pause = 0 if before is None else _seconds(before, stamp)
        off_step = _seconds(origin, stamp) % step != 0
        if pause >= SESSION_GAP_SECONDS or (off_step and split_at_gaps):
            origin, run = stamp, run + 1
        elif off_step:
            raise _gap(before or stamp, stamp, step)
        if _seconds(origin, stamp) % (step * frame_step) != 0:
            continue
        if kept and kept[-1].run == run and _seconds(kept[-1], stamp) != step * frame_step:
            if not split_at_gaps:
                raise _gap(kept[-1], stamp, step * frame_step)
            origin, run = stamp, run + 1
        kept.append(stamp._replace(run=run))
    return kept


def session_gaps(stamps: Sequence[Stamp]) -> list[tuple[Stamp, Stamp]]:
    """(last frame before, first frame after) of the pauses of `SESSION_GAP_SECONDS` or more among numbered runs."""
    return [
        (one, two) for one, two in pairwise(stamps) if one.run != two.run and _seconds(one, two) >= SESSION_GAP_SECONDS
    ]


def describe_sessions(gaps: Sequence[tuple[Stamp, Stamp]], shown: int = 5) -> str:
    """One line that says how many sessions an archive has and where the first gaps between them are."""
    places = [f"{one.time} to {two.time} ({_seconds(one, two) / 3600:.1f} h)" for one, two in gaps[:shown]]
    more = [f"{len(gaps) - shown} more"] if len(gaps) > shown else []
    hours = SESSION_GAP_SECONDS // 3600
    return f"{len(gaps) + 1} sessions, as the archive pauses for {hours} h or more: {', '.join(places + more)}"


def _gap(one: Stamp, two: Stamp, step: int) -> UserError:
    got = f"{_seconds(one, two)} s from {one.path.name} to {two.path.name}"
    return UserError(f"expected a frame every {step} s, got {got}: add what is missing or pass --gaps split")
