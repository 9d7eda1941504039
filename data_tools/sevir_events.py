"""Whole SEVIR events read straight out of their HDF5 files, for those who will not copy them into a store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_tools.catalog import Entry
from data_tools.cli import UserError
from data_tools.quantities import VIL
from data_tools.sevir import CRS, LICENCE, SOURCE, Pool, corner_of, reduce_codes, split_of, times_of
from data_tools.sevir_files import STEPS, Found, OpenFiles, find_events
from data_tools.table import EventTable

LR_BLOCK, LR_STEP = 3, 2
"""SEVIR-LR: the pixels of SEVIR a side that make one, and the step between the frames that are kept."""


class Reduction(NamedTuple):
    """How events are made smaller: `block` x `block` pixels in one by `pool`, every `frame_step`-th frame."""

    block: int = 1
    frame_step: int = 1
    pool: Pool = "max"

    def __str__(self) -> str:
        name = {"max": "maximum", "mean": "mean"}[self.pool]
        return f"every frame of {self.frame_step}, {name} over {self.block} x {self.block} pixels"


@dataclass(frozen=True, slots=True, eq=False)
class SevirEvents(EventTable):
    """The events of a SEVIR folder as `data_tools.store.EventStore` has them, in the order of SEVIR's loaders.

    A frame costs the whole event: the files interleave the frames of an event, so that it is read at once.

    Attributes:
        entries: their rows of the catalogue.
        reduction: what is done to each event when it is read.
        files: the HDF5 files, opened when first read, once in each process.
        left_out: ids that stand more than once in the catalogue, and files that are not there.
    """

    entries: tuple[Entry, ...]
    reduction: Reduction
    files: OpenFiles
    left_out: tuple[tuple[str, ...], tuple[str, ...]]

    @classmethod
    def open(
        cls,
        src: str | Path,
        *,
        lr: bool = False,
        pool: Pool = "max",
        start: str | None = None,
        end: str | None = None,
        skip_lost: bool = False,
        remedy: str = "skip_lost=True",
    ) -> SevirEvents:
        """The events of VIL with nothing missing in the folder `src` with CATALOG.csv and `data/vil`.

        Args:
            src: the folder, or its catalogue.
            lr: read SEVIR as SEVIR-LR: every second frame, 3 x 3 pixels in one.
            pool: how, with `lr`.
            start, end: first and last nominal time of events, UTC, both included, like 2019-06-01T00:00.
            skip_lost: leave out the events of files that are not there.
            remedy: how a user does so, for the message.

        Raises:
            UserError: no catalogue or a broken one; a file of it is not there, cut short or no SEVIR file; no events;
                `lr` of something else than SEVIR's 49 frames.
        """
        if pool != "max" and not lr:
            raise UserError(f"expected lr with pool {pool}, got it off: only reduced events are pooled")
        found = find_events(src, start=start, end=end, skip_lost=skip_lost, remedy=remedy)
        reduction = _reduction_to_lr(found, pool) if lr else Reduction()
        side, _, frames = found.shape
        times = [times_of(entry, frames)[:: reduction.frame_step] for entry in found.entries]
        kept = len(times[0])
        return cls(
            path=Path(src),
            quantity=VIL,
            time_step_seconds=float(STEPS[frames] * reduction.frame_step),
            shape=(len(times), kept, side // reduction.block, side // reduction.block),
            attrs={"source": SOURCE, "licence": LICENCE, "cut": f"whole events; {reduction}"},
            crs=CRS,
            ids=tuple(entry.id for entry in found.entries),
            sources=("sevir",) * len(times),
            splits=tuple(split_of(entry.time) for entry in found.entries),
            valid_times=np.stack(times),
            origins=np.array([corner_of(entry) for entry in found.entries]),
            entries=found.entries,
            reduction=reduction,
            files=OpenFiles(found.data),
            left_out=(found.doubled, found.lost),
        )

    @property
    def event_bytes(self) -> int:
        """Bytes of an event in its file, decoded."""
        _, _, height, width = self.shape
        frames = {seconds: frames for frames, seconds in STEPS.items()}[
            int(self.time_step_seconds) // self.reduction.frame_step
        ]
        return frames * height * width * self.reduction.block**2

    def part(self, first: int, count: int) -> SevirEvents:
        """The `count` events from `first` on, or as many as there are, with files of its own."""
        chosen = slice(first, first + count)
        entries = self.entries[chosen]
        return replace(
            self,
            shape=(len(entries), *self.shape[1:]),
            ids=self.ids[chosen],
            sources=self.sources[chosen],
            splits=self.splits[chosen],
            valid_times=self.valid_times[chosen],
            origins=self.origins[chosen],
            entries=entries,
            files=OpenFiles(self.files.data),
            left_out=((), ()),
        )

    def read_codes(self, index: int, frames: slice = slice(None)) -> np.ndarray:
        """(T, H, W) uint8 codes of event `index`, 255 missing; `frames` picks along time, after the reduction.

        Raises:
            UserError: the file is gone or damaged, or holds another event at the place that the catalogue names.
            IndexError: no such event.
            ValueError: `frames` runs backwards.
        """
        wanted = range(self.shape[1])[frames]
        if wanted.step < 0:
            raise ValueError(f"expected frames in their order, got {frames}")
        block, step, pool = self.reduction
        stored = slice(wanted.start * step, wanted.stop * step, wanted.step * step)
        codes = self.files.read(self.entries[index], stored)
        return codes if block == 1 else reduce_codes(codes, block, 1, pool)


def _reduction_to_lr(found: Found, pool: Pool) -> Reduction:
    side, _, frames = found.shape
    if frames != 49 or side % LR_BLOCK:
        raise UserError(
            f"expected SEVIR's 49 frames of a multiple of {LR_BLOCK} pixels to make SEVIR-LR of, got {frames} of "
            f"{side} in {found.data}: leave --lr out"
        )
    return Reduction(LR_BLOCK, LR_STEP, pool)
