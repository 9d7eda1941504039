"""What a conversion is to write and where it stands: a folder beside the output, moved to its place when all is done.

    .OUT.converting/plan.json        written last of the beginning: with it, the store stands and waits for its fields
                    store/           the event store to be
                    records/N.json   one for each finished block
                    lock             held by the process at work

Whoever finds such a folder goes on where it stands, if the events and the options are the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.fitting import write_atomically
from data_tools.cli import UserError
from data_tools.conversion.blocks import Block, read_record, record_path
from data_tools.conversion.manifest import Manifest, manifest_path, write_manifest
from data_tools.layout import check_event, create_group, create_values, write_beside
from data_tools.locks import locked
from data_tools.schema import Event
from data_tools.sevir import pixel_size
from data_tools.sevir_events import SevirEvents
from data_tools.writing import full_disk_in_words, move_into_place

MARK = "plan.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """A conversion.

    Attributes:
        events: what to convert.
        out: the store to make; an absolute path, since workers may stand elsewhere.
        block: events of a task.
        chunk_frames: frames of a chunk.
    """

    events: SevirEvents
    out: Path
    block: int
    chunk_frames: int

    @property
    def folder(self) -> Path:
        return self.out.with_name(f".{self.out.name}.converting")

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def records(self) -> Path:
        return self.folder / "records"

    @property
    def identity(self) -> str:
        """Hash of all that decides the values: events, their places in files, times, reduction, blocks and chunks.

        Not of the files: a damaged one is replaced while the conversion waits.
        """
        events = self.events
        rows = [[entry.id, entry.file_name, entry.file_index] for entry in events.entries]
        form = [events.shape, *events.reduction, self.block, self.chunk_frames]
        digest = hashlib.sha256(json.dumps([form, rows]).encode())
        digest.update(events.valid_times.astype(np.int64).tobytes())
        return digest.hexdigest()

    def blocks(self) -> Iterator[Block]:
        """All blocks, finished or not."""
        for number, first in enumerate(range(0, len(self.events), self.block)):
            yield Block(number, first, self.events.part(first, self.block), self.store, self.records)

    def unfinished(self) -> list[Block]:
        return [block for block in self.blocks() if read_record(record_path(self.records, block.number)) is None]

    @property
    def begun(self) -> bool:
        """Whether the folder holds a conversion, of these events or others."""
        return (self.folder / MARK).is_file()

    def begin(self, overwrite: bool) -> None:
        """Lay the store out, or find it laid out by a former run.

        Raises:
            UserError: an unfinished conversion of something else is there and `overwrite` is off; the disk is full.
        """
        mark = self.folder / MARK
        if self.begun:
            if self._is_mine(mark):
                return
            if not overwrite:
                raise UserError(
                    f"expected no unfinished conversion of other events or options, got {self.folder}: finish it with "
                    "the former ones, or pass --overwrite to begin anew"
                )
            mark.unlink()
        with full_disk_in_words(self.out, "nothing was written"):
            for folder in (self.store, self.records):
                shutil.rmtree(folder, ignore_errors=True)
            self.records.mkdir(parents=True)
            self._lay_out()
            write_atomically(mark, lambda path: path.write_text(json.dumps({"identity": self.identity})))

    def _is_mine(self, mark: Path) -> bool:
        try:
            return json.loads(mark.read_text())["identity"] == self.identity
        except (ValueError, TypeError, KeyError, RecursionError):
            return False

    def _lay_out(self) -> None:
        events = self.events
        fields = np.broadcast_to(np.uint8(0), events.shape[1:])  # the rows stand without theirs
        rows = [
            Event(event_id, times, fields, split, source, x0, y0)
            for event_id, times, split, source, (x0, y0) in zip(
                events.ids, events.valid_times, events.splits, events.sources, events.origins, strict=True
            )
        ]
        for row in rows:
            check_event(row, events.shape[1:])
        group = create_group(self.store, events.quantity, events.time_step_seconds, events.attrs)
        create_values(group, events.quantity, events.shape, events.time_step_seconds, self.chunk_frames)
        write_beside(group, rows, events.shape, events.crs, pixel_size(events.shape[3]), "m")

    def finish(self, overwrite: bool) -> None:
        """Write the manifest and move the store to its place.

        Raises:
            UserError: a block has no record; somebody else has taken the place meanwhile; the disk is full.
        """
        records = [read_record(record_path(self.records, block.number)) for block in self.blocks()]
        finished = tuple(record for record in records if record is not None)
        if len(finished) < len(records):
            raise UserError(f"expected {len(records)} finished blocks, got {len(finished)}: run the same command again")
        with full_disk_in_words(self.out, "all blocks are kept, and the same command goes on"):
            path = manifest_path(self.store, self.events.quantity)
            write_manifest(path, Manifest(self.identity, finished))
            move_into_place(self.store, self.out, overwrite)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a conversion's folder, which is made, and removed in the end if nothing was begun.

    Raises:
        UserError: another process holds it.
    """
    with full_disk_in_words(folder, "nothing was written"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
    refusal = f"expected nobody else to write this store, got another process at work in {folder}: wait for it"
    with locked(folder / "lock", refusal):
        try:
            yield
        finally:
            if not (folder / MARK).is_file():
                shutil.rmtree(folder, ignore_errors=True)
