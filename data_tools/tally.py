"""Counting a store: one count for each code of the packing, from which every statistic of intensity follows exactly.

Events are read one at a time in blocks that dask spreads over threads; what is kept of an event are a few numbers, so
that memory does not grow with the pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import dask
import numpy as np
from dask.callbacks import Callback

from data_tools.motion import displacement
from data_tools.schema import unpack
from data_tools.store import EventStore
from data_tools.table import EventTable

BLOCK = 8
"""Events of one task: enough that the scheduler costs nothing, few enough that the progress bar moves."""

WET_SHARE = 0.01
"""A frame with less than this share of pixels at the lowest threshold has no motion to be measured."""

_lock = threading.Lock()


@dataclass(frozen=True)
class Tally:
    """Counts of E events with T thresholds.

    Attributes:
        codes: (number of codes,) int64, pixels of each code of the packing; the missing code's too.
        pixels: (E,) int64, those that are not missing.
        missing: (E,) int64.
        exceeding: (E, T) int64, pixels at or above each threshold.
        motion: (P, 2) float64, (rows, columns) a frame of the measured pairs of frames.
        dry: pairs of frames that had too few wet pixels to measure motion.
        empty_frames: frames of nothing but missing pixels.
    """

    codes: np.ndarray
    pixels: np.ndarray
    missing: np.ndarray
    exceeding: np.ndarray
    motion: np.ndarray
    dry: int
    empty_frames: int


def values_of_codes(table: EventTable) -> np.ndarray:
    """float64 value of each code of the packing, as `read` gives it; NaN of the missing one."""
    dtype, _, missing = table.quantity.storage
    return unpack(np.arange(missing + 1, dtype=dtype), table.quantity).astype(np.float64)


def tally_events(table: EventTable, indices: Sequence[int], pairs: int) -> Tally:
    """Count the events at `indices`, and measure the motion of `pairs` pairs of successive frames of each.

    Raises:
        UserError: an event on disk is damaged or gone.
    """
    values = values_of_codes(table)
    thresholds = np.array(table.quantity.thresholds)
    codes = np.zeros(len(values), dtype=np.int64)
    pixels, missing, exceeding, motion = [], [], [], []
    dry = empty = 0
    for index in indices:
        event = _read(table, index)
        counts = np.bincount(event.reshape(-1), minlength=len(values))
        codes += counts
        pixels.append(counts[:-1].sum())
        missing.append(counts[-1])
        exceeding.append([counts[:-1][values[:-1] >= threshold].sum() for threshold in thresholds])
        empty += int((event == len(values) - 1).all(axis=(1, 2)).sum())
        moved = _motion(event, values, table, pairs)
        dry += sum(one is None for one in moved)
        motion += [one for one in moved if one is not None]
    return Tally(
        codes,
        np.array(pixels, dtype=np.int64),
        np.array(missing, dtype=np.int64),
        np.array(exceeding, dtype=np.int64).reshape(-1, len(thresholds)),
        np.array(motion, dtype=np.float64).reshape(-1, 2),
        dry,
        empty,
    )


def _read(table: EventTable, index: int) -> np.ndarray:
    if isinstance(table, EventStore):
        return table.read_codes(index)
    with _lock:  # HDF5 is read by one thread at a time
        return table.read_codes(index)


def _motion(event: np.ndarray, values: np.ndarray, table: EventTable, pairs: int) -> list[tuple[float, float] | None]:
    """Of `pairs` pairs of successive frames spread evenly over the event; None where it is dry."""
    frames = len(event)
    firsts = np.unique(np.linspace(0, frames - 2, min(pairs, frames - 1)).round().astype(int)) if frames > 1 else []
    scaled = np.nan_to_num(table.quantity.encode(values))
    moved: list[tuple[float, float] | None] = []
    for first in firsts if pairs else []:
        before, after = event[first], event[first + 1]
        wet = min((values[frame] >= table.quantity.thresholds[0]).mean() for frame in (before, after))
        moved.append(None if wet < WET_SHARE else displacement(scaled[before], scaled[after]))
    return moved


def merge(tallies: Sequence[Tally]) -> Tally:
    """The tally of all events of `tallies`, in their order."""
    return Tally(
        np.sum([tally.codes for tally in tallies], axis=0),
        np.concatenate([tally.pixels for tally in tallies]),
        np.concatenate([tally.missing for tally in tallies]),
        np.concatenate([tally.exceeding for tally in tallies]),
        np.concatenate([tally.motion for tally in tallies]),
        sum(tally.dry for tally in tallies),
        sum(tally.empty_frames for tally in tallies),
    )


def tally(
    table: EventTable,
    indices: Sequence[int],
    *,
    pairs: int,
    workers: int,
    report: Callable[[int], None] = lambda events: None,
) -> Tally:
    """`tally_events`, in blocks over `workers` threads; `report` is told how many more events are done.

    Raises:
        UserError: an event on disk is damaged or gone.
    """
    blocks = [indices[start : start + BLOCK] for start in range(0, len(indices), BLOCK)]
    count = dask.delayed(partial(tally_events, table, pairs=pairs))  # bound: dask would take a dataclass apart
    tasks = [count(block) for block in blocks]

    def done(key: object, result: object, *_: object) -> None:
        if isinstance(result, Tally):
            report(len(result.pixels))

    with Callback(posttask=done):
        return merge(dask.compute(*tasks, scheduler="threads", num_workers=workers))
