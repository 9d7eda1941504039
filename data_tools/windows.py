"""Storm windows: cutting wet space-time blocks out of a stream of radar frames."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_tools.archive import MISSING, RATE_STEP, Grid, Stamp
from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE
from data_tools.store import Event, unpack

WET_RATE = 0.5
"""mm/h from which a pixel counts as wet when windows are chosen."""

_ORIGIN_STEP = 4  # pixels by which the tiling is shifted in search of the best place


@dataclass(frozen=True, slots=True)
class Cut:
    """How windows are cut.

    Attributes:
        patch: height and width of a tile in pixels.
        frames: frames of a window.
        stride: frames between the starts of successive training windows.
        eval_stride: the same for val and test windows; `frames` or more keeps them free of common frames.
        overlap: pixels that neighbouring training tiles share; val and test tiles share none.
        wet_fraction: least share of pixels at `WET_RATE` or more, averaged over the frames.
        max_missing: greatest share of missing pixels in any frame.
    """

    patch: int
    frames: int
    stride: int
    eval_stride: int
    overlap: int
    wet_fraction: float
    max_missing: float

    def __post_init__(self) -> None:
        for name in ("patch", "frames", "stride", "eval_stride"):
            if getattr(self, name) < 1:
                raise UserError(f"expected --{name} of 1 or more, got {getattr(self, name)}")
        if not 0 <= self.overlap < self.patch:
            raise UserError(f"expected --overlap from 0 to less than the patch of {self.patch}, got {self.overlap}")
        for name in ("wet_fraction", "max_missing"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"expected --{name} from 0 to 1, got {getattr(self, name)}")


def chronological(count: int, borders: tuple[float, float, float]) -> list[str | None]:
    """The split of each of `count` frames by its position; None for frames between val and test, which nobody uses.

    `borders` are (end of train, end of val, start of test) as fractions of `count`, ascending.
    """
    train, val, test = borders
    if not 0.0 <= train <= val <= test <= 1.0:
        raise UserError(f"expected --splits as three ascending fractions from 0 to 1, got {list(borders)}")
    rounding = 1e-9  # 0.67 * 100 is 67.00000000000001
    ends = (math.floor(train * count + rounding), math.floor(val * count + rounding))
    begin = math.ceil(test * count - rounding)
    return ["train" if i < ends[0] else "val" if i < ends[1] else "test" if i >= begin else None for i in range(count)]


def longest_stretch(stamps: Sequence[Stamp], splits: Sequence[str | None]) -> int:
    """Most successive frames that are of one run and of one split."""
    longest = length = 0
    before: tuple[int, str | None] | None = None
    for stamp, split in zip(stamps, splits, strict=True):
        length = length + 1 if (stamp.run, split) == before else 1
        before = (stamp.run, split)
        longest = max(longest, length if split else 0)
    return longest


@dataclass(frozen=True, slots=True)
class Tiles:
    """Upper-left corners of the tiles of one tiling, as rows and columns of a lattice."""

    rows: np.ndarray
    columns: np.ndarray
    patch: int

    def count(self, mask: np.ndarray) -> np.ndarray:
        """(len(rows), len(columns)): true pixels of `mask` in each tile, by a summed-area table."""
        table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int32)
        np.cumsum(mask, axis=0, dtype=np.int32, out=table[1:, 1:])
        np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
        return _box(table, self.rows, self.columns, self.patch)


def _box(table: np.ndarray, rows: np.ndarray, columns: np.ndarray, patch: int) -> np.ndarray:
    top, bottom = table[rows], table[rows + patch]
    inside = bottom - top
    return inside[:, columns + patch] - inside[:, columns]


def place_tiles(missing: np.ndarray, patch: int, overlap: int, max_missing: float) -> Tiles:
    """The regular tiling, among its shifts, in which most tiles of the size `patch` are within `max_missing`.

    Coverage of a radar composite is a union of discs in a frame of missing pixels, so the corner of the frame is seldom
    the best place to begin. Ties go to the smallest shift. The search counts tiles that share no pixels; those that do
    (`overlap`) are then laid from the place that it found, in both directions.
    """
    height, width = missing.shape
    if min(height, width) < patch:
        raise UserError(f"expected frames of at least {patch} x {patch} pixels, got {height} x {width}: lower --patch")
    step = patch - overlap
    table = np.zeros((height + 1, width + 1), dtype=np.int32)
    table[1:, 1:] = missing.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    best, place = -1, (0, 0)
    for row in range(0, min(patch, height - patch + 1), _ORIGIN_STEP):
        for column in range(0, min(patch, width - patch + 1), _ORIGIN_STEP):
            rows = np.arange(row, height - patch + 1, patch)
            columns = np.arange(column, width - patch + 1, patch)
            good = int((_box(table, rows, columns, patch) <= max_missing * patch**2).sum())
            if good > best:
                best, place = good, (row, column)
    rows = np.arange(place[0] % step, height - patch + 1, step)
    columns = np.arange(place[1] % step, width - patch + 1, step)
    return Tiles(rows, columns, patch)


@dataclass(frozen=True, slots=True)
class _Held:
    """A frame in the rolling window: its codes and, per tile, its wet and missing pixels."""

    time: np.datetime64
    codes: np.ndarray
    wet: np.ndarray
    missing: np.ndarray


def cut_windows(
    frames: Iterable[tuple[Stamp, str | None, np.ndarray]], grid: Grid, cut: Cut, *, source: str, gaps_split: bool
) -> Iterator[Event]:
    """Yield the events of a stream of (stamp, split, uint16 codes) in the order of time.

    A window lies within one run and one split. At most `cut.frames` frames are held. Training windows come from tiles
    that share `cut.overlap` pixels, the others from tiles that share none; a tiling is placed by the first frame it is
    used on.

    Raises:
        UserError: a frame of another shape than `grid`; a frame with nothing but missing pixels, unless `gaps_split`,
            which treats it as a gap.
    """
    held: deque[_Held] = deque(maxlen=cut.frames)
    tilings: dict[int, Tiles] = {}
    before: tuple[int, str | None] | None = None
    length = 0  # frames of the present stretch
    for stamp, split, codes in frames:
        if codes.shape != grid.shape:
            raise UserError(f"expected frames of {grid.shape} like the first, got {codes.shape} in {stamp.path.name}")
        missing = codes == MISSING
        if missing.all():
            if not gaps_split:
                got = f"only missing pixels in {stamp.path}"
                raise UserError(f"expected rain rates, got {got}: pass --gaps split to cut windows around it")
            before = None
            held.clear()
            continue
        if (stamp.run, split) != before:
            before, length = (stamp.run, split), 0
            held.clear()
        if split is None:
            continue
        overlap, stride = (cut.overlap, cut.stride) if split == "train" else (0, cut.eval_stride)
        if overlap not in tilings:
            tilings[overlap] = place_tiles(missing, cut.patch, overlap, cut.max_missing)
        tiles = tilings[overlap]
        wet = ~missing & (codes >= round(WET_RATE / RATE_STEP))
        held.append(_Held(stamp.time, codes, tiles.count(wet), tiles.count(missing)))
        length += 1
        if length >= cut.frames and (length - cut.frames) % stride == 0:
            yield from _events(held, tiles, grid, cut, split, source)


def _events(
    held: Sequence[_Held] | deque[_Held], tiles: Tiles, grid: Grid, cut: Cut, split: str, source: str
) -> Iterator[Event]:
    pixels = cut.patch**2
    wet = np.mean([frame.wet for frame in held], axis=0) / pixels
    missing = np.max([frame.missing for frame in held], axis=0) / pixels
    times = np.array([frame.time for frame in held], dtype="datetime64[s]")
    begin = times[0].item()
    minute = "%Y%m%dT%H%M%S" if begin.second else "%Y%m%dT%H%M"  # frames may be seconds apart
    for i, j in np.argwhere((wet >= cut.wet_fraction) & (missing <= cut.max_missing)):
        row, column = int(tiles.rows[i]), int(tiles.columns[j])
        area = (slice(row, row + cut.patch), slice(column, column + cut.patch))
        codes = np.stack([frame.codes[area] for frame in held])
        yield Event(
            id=f"{source}-{begin:{minute}}-y{row}-x{column}",
            times=times,
            values=unpack(codes, RAINFALL_RATE),
            split=split,
            source=source,
            x0=grid.x0 + column * grid.pixel_size[0],
            y0=grid.y0 + row * grid.pixel_size[1],
        )
