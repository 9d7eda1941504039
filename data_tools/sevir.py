"""SEVIR (Veillette, Samsi and Mattioli 2020): vertically integrated liquid (VIL) out of its HDF5 files and catalogue.

An archive is a folder with CATALOG.csv and `data/vil/<year>/*.h5`. Each file holds `vil` (N, H, W, T) uint8 and, in
SEVIR itself, `id` (N,). Two archives exist: SEVIR, 49 frames 5 minutes apart of 384 x 384 pixels of 1 km, and
SEVIR-LR, 25 frames 10 minutes apart of 128 x 128 of 3 km, made of it by taking every second frame and the maximum of
3 x 3 pixels. An archive of the first kind is reduced in that very way when windows smaller than its fields are asked
for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from data_tools.catalog import Entry
from data_tools.cli import UserError
from data_tools.quantities import VIL
from data_tools.sevir_files import STEPS, find_events, opened, read_event
from data_tools.store import Event, unpack

SOURCE = "SEVIR: a storm event imagery dataset, vertically integrated liquid (VIL) from NEXRAD"
LICENCE = "SEVIR, https://registry.opendata.aws/sevir, open data"
TRAIN_UNTIL, VAL_UNTIL = np.datetime64("2019-01-01T00:00:00"), np.datetime64("2019-06-01T00:00:00")
MISSING = VIL.storage[2]

Pool = Literal["max", "mean"]
"""How a block of pixels becomes one: SEVIR-LR's maximum, or the mean of the codes."""

_SIDE = 384_000.0  # m, of every field
_RADIUS, _LATITUDE, _LONGITUDE = 6_370_997.0, 38.0, -98.0  # of SEVIR's Lambert azimuthal equal-area projection

CRS: dict[str, Any] = {
    "grid_mapping_name": "lambert_azimuthal_equal_area",
    "latitude_of_projection_origin": _LATITUDE,
    "longitude_of_projection_origin": _LONGITUDE,
    "false_easting": 0.0,
    "false_northing": 0.0,
    "earth_radius": _RADIUS,
}


def pixel_size(pixels: int) -> tuple[float, float]:
    """(width, height) in m of a pixel, where fields have `pixels` a side; height is positive: SEVIR's rows go north."""
    return (_SIDE / pixels, _SIDE / pixels)


def vil_to_kg_per_m2(code: np.ndarray | float) -> np.ndarray:
    """Vertically integrated liquid in kg/m^2, float64, of SEVIR's code X in 0-254; NaN of 255 and of NaN.

    0 for X <= 5; (X - 2) / 90.66 for 5 < X <= 18; exp((X - 83.9) / 38.9) above. Fractional codes, as a model makes
    them, are converted by the same formulas; negative ones give 0.
    """
    x = np.asarray(code, dtype=np.float64)
    linear = (x - 2.0) / 90.66
    exponential = np.exp((x - 83.9) / 38.9)
    vil = np.where(x <= 5.0, 0.0, np.where(x <= 18.0, linear, exponential))
    return np.where(np.isnan(x) | (x == MISSING), np.nan, vil)


def kg_per_m2_to_vil(vil: np.ndarray | float) -> np.ndarray:
    """SEVIR's code as float64 in [0, 254], fractional, of VIL in kg/m^2; NaN of NaN. Inverse of `vil_to_kg_per_m2`.

    Above V = 16/90.66 kg/m^2 (X = 18) it is 38.9 ln V + 83.9, held at 18 or more: the code jumps from .1765 at 18 to
    .1886 at 19 and values between belong to neither branch. V below that of X = 5, the last code that means nothing,
    gives 0.
    """
    v = np.asarray(vil, dtype=np.float64)
    knee = (18.0 - 2.0) / 90.66
    linear = 90.66 * v + 2.0
    exponential = 38.9 * np.log(np.maximum(v, knee)) + 83.9
    code = np.where(v <= knee, np.where(linear > 5.0, linear, 0.0), np.maximum(exponential, 18.0))
    return np.where(np.isnan(v), np.nan, np.minimum(code, 254.0))


def split_of(time: np.datetime64) -> str:
    """`train` to 2019-01-01, `val` to 2019-06-01 (both days' midnights included), `test` after: whole events by date.

    The test set is that of PreDiff and Earthformer, the validation set Earthformer's. PreDiff draws its own at random
    out of overlapping windows of the events until 2019-06-01, so that parts of one storm are on both sides.
    """
    return "train" if time <= TRAIN_UNTIL else "val" if time <= VAL_UNTIL else "test"


@dataclass(frozen=True, slots=True)
class SevirCut:
    """How windows are cut out of events.

    Attributes:
        patch: height and width in pixels; a divisor of the archive's, the rest is the maximum over blocks.
        frames: frames of a window.
        stride: frames between the starts of windows; None is half a window, as the published loaders have it (6 of
            13, 12 of 25).
        eval_stride: the same for val and test.
        frame_step: take every n-th frame; None is 2 where 5-minute fields are reduced in size (SEVIR-LR), else 1.
        max_missing: greatest share of missing pixels in any frame; windows with more are left out.
        split: put every window there instead of by date.
        start, end: first and last nominal time of events, UTC, both included.
        skip_gaps: leave out events with a lost file, a wholly missing frame or uneven times instead of refusing them.
    """

    patch: int = 128
    frames: int = 13
    stride: int | None = None
    eval_stride: int | None = None
    frame_step: int | None = None
    max_missing: float = 0.02
    split: str | None = None
    start: str | None = None
    end: str | None = None
    skip_gaps: bool = False

    def __post_init__(self) -> None:
        for name in ("patch", "frames", "stride", "eval_stride", "frame_step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"expected --{name} of 1 or more, got {value}")
        if not 0.0 <= self.max_missing <= 1.0:
            raise UserError(f"expected --max_missing from 0 to 1, got {self.max_missing}")

    def stride_of(self, split: str) -> int:
        chosen = self.stride if split == "train" else self.eval_stride
        return max(self.frames // 2, 1) if chosen is None else chosen


@dataclass(frozen=True, slots=True)
class SevirArchive:
    """An archive with its chosen events, all their files seen to be there.

    Attributes:
        data: the folder that `file_name` is relative to.
        entries: the events in the order they are read in.
        cut: how they are cut.
        shape: (H, W, T) of the fields on disk.
        frame_step: every how many frames are taken.
    """

    data: Path
    entries: tuple[Entry, ...]
    cut: SevirCut
    shape: tuple[int, int, int]
    frame_step: int

    @classmethod
    def open(cls, src: str | Path, cut: SevirCut) -> SevirArchive:
        """Read the catalogue in the folder `src` (or the catalogue `src`) and check that its files are there and fit.

        Raises:
            UserError: no catalogue or a broken one; a file that it names is absent, truncated or no SEVIR file; no
                events.
        """
        found = find_events(src, start=cut.start, end=cut.end, skip_lost=cut.skip_gaps, remedy="--gaps split")
        return cls(found.data, found.entries, cut, found.shape, _frame_step(found.shape, cut))

    @property
    def time_step_seconds(self) -> float:
        return float(STEPS[self.shape[2]] * self.frame_step)

    @property
    def pixel_size(self) -> tuple[float, float]:
        """See `pixel_size`."""
        return pixel_size(self.cut.patch)

    @property
    def attrs(self) -> dict[str, Any]:
        reduced = self.shape[0] // self.cut.patch
        method = f"every frame of {self.frame_step}, maximum over {reduced} x {reduced} pixels"
        return {"source": SOURCE, "licence": LICENCE, "cut": f"{self.cut}; {method}"}

    def events(self) -> Iterator[Event]:
        """Yield the windows, event by event by id, within an event by time.

        Raises:
            UserError: a file that ends early or has another event at a place than the catalogue says; without
                `cut.skip_gaps`, a wholly missing frame or frames uneven in time.
        """
        with ExitStack() as stack:
            files: dict[str, h5py.File] = {}
            for entry in self.entries:
                if entry.file_name not in files:
                    files[entry.file_name] = stack.enter_context(opened(self.data / entry.file_name))
                yield from self._windows(entry, files[entry.file_name])

    def _windows(self, entry: Entry, file: h5py.File) -> Iterator[Event]:
        path = self.data / entry.file_name
        codes = reduce_codes(read_event(file, entry, path), self.shape[0] // self.cut.patch, self.frame_step)
        times = times_of(entry, self.shape[2])[:: self.frame_step]
        fault = _fault(codes, times, self.time_step_seconds)
        if fault:
            if self.cut.skip_gaps:
                return
            raise UserError(f"{fault} in event {entry.id} of {path}: pass --gaps split to leave such events out")
        split = self.cut.split or split_of(entry.time)
        x0, y0 = corner_of(entry)
        for begin in range(0, len(codes) - self.cut.frames + 1, self.cut.stride_of(split)):
            window = slice(begin, begin + self.cut.frames)
            if (codes[window] == MISSING).mean(axis=(1, 2)).max() > self.cut.max_missing:
                continue
            yield Event(
                id=f"{entry.id}-{begin:02d}",
                times=times[window],
                values=unpack(codes[window], VIL),
                split=split,
                source="sevir",
                x0=x0,
                y0=y0,
            )


def read_events(src: str | Path, cut: SevirCut | None = None) -> Iterator[Event]:
    """The windows of the archive at `src`; see `SevirArchive.open` and `SevirArchive.events`."""
    return SevirArchive.open(src, cut or SevirCut()).events()


def reduce_codes(codes: np.ndarray, block: int, frame_step: int, pool: Pool = "max") -> np.ndarray:
    """Every `frame_step`-th of (T, H, W) uint8 codes, each `block` x `block` pixels in one.

    SEVIR-LR is `block` 3, `frame_step` 2, `max`. The code 255 is the greatest, so a block with any missing pixel is
    missing. `mean` is the mean of the codes (not of kg/m^2), halves to even, and missing in the same blocks.
    """
    codes = codes[::frame_step]
    frames, height, width = codes.shape
    blocks = codes.reshape(frames, height // block, block, width // block, block)
    greatest = blocks.max(axis=(2, 4))
    if pool == "max":
        return greatest
    means = np.rint(blocks.sum(axis=(2, 4), dtype=np.uint32) / block**2).astype(np.uint8)
    return np.where(greatest == MISSING, greatest, means)


def _frame_step(shape: tuple[int, int, int], cut: SevirCut) -> int:
    """The chosen or default frame step, after a look whether the windows fit."""
    side, _, frames = shape
    if side % cut.patch:
        raise UserError(f"expected --patch as a divisor of the archive's {side} pixels, got {cut.patch}")
    step = (2 if frames == 49 and cut.patch < side else 1) if cut.frame_step is None else cut.frame_step
    kept = len(range(0, frames, step))
    if cut.frames > kept:
        raise UserError(f"expected --frames of {kept} at most (every frame of {step} of {frames}), got {cut.frames}")
    return step


def times_of(entry: Entry, frames: int) -> np.ndarray:
    """(T,) datetime64[s]: nominal time and offsets of the catalogue, or -120, -115, ... 120 minutes without them.

    SEVIR-LR keeps SEVIR's catalogue, so 49 offsets for 25 frames mean every second one.
    """
    offsets: Sequence[float] = entry.minute_offsets or tuple(range(-120, 121, 5))
    if len(offsets) == 2 * frames - 1:
        offsets = offsets[::2]
    if len(offsets) != frames:
        raise UserError(f"expected {frames} minute_offsets for event {entry.id}, got {len(offsets)}: wrong catalogue?")
    return entry.time + np.rint(np.array(offsets) * 60.0).astype("timedelta64[s]")


def _fault(codes: np.ndarray, times: np.ndarray, step: float) -> str | None:
    """What makes an event unfit, in words, or None."""
    empty = np.flatnonzero((codes == MISSING).all(axis=(1, 2)))
    if len(empty):
        return f"expected data in every frame, got nothing but missing pixels in frame {empty[0]}"
    steps = np.diff(times).astype(np.float64)
    if len(steps) and (steps != step).any():
        return f"expected a frame every {step:g} s, got steps from {steps.min():g} to {steps.max():g} s"
    return None


def corner_of(entry: Entry) -> tuple[float, float]:
    """(x, y) in m of the lower left corner (Snyder 1987, eqs. 24-2, 22-4, 22-5).

    NaN where the catalogue has no corner.
    """
    if entry.corner is None:
        return (float("nan"), float("nan"))
    latitude, turn = np.radians(entry.corner[0]), np.radians(entry.corner[1] - _LONGITUDE)
    origin = np.radians(_LATITUDE)
    cosine = np.sin(origin) * np.sin(latitude) + np.cos(origin) * np.cos(latitude) * np.cos(turn)
    scale = _RADIUS * np.sqrt(2.0 / (1.0 + cosine))
    x = scale * np.cos(latitude) * np.sin(turn)
    y = scale * (np.cos(origin) * np.sin(latitude) - np.sin(origin) * np.cos(latitude) * np.cos(turn))
    return (float(x), float(y))
