"""One task of a conversion: a block of events out of HDF5 into its own region of the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from core.fitting import write_atomically
from data_tools.cli import UserError
from data_tools.conversion.manifest import Checksum, Record
from data_tools.layout import open_values
from data_tools.sevir_events import SevirEvents
from data_tools.writing import full_disk_in_words


class Block(NamedTuple):
    """A block of events.

    Attributes:
        number: of the block, which names its record.
        first: position of its first event in the store.
        events: its events alone.
        store: the store to write into.
        records: the folder of records of finished blocks.
    """

    number: int
    first: int
    events: SevirEvents
    store: Path
    records: Path


def record_path(records: Path, number: int) -> Path:
    return records / f"{number:06d}.json"


def read_record(path: Path) -> Record | None:
    """The record of a finished block, or None where it is not finished."""
    try:
        content = json.loads(path.read_text())
        return Record(int(content["first"]), int(content["count"]), str(content["sha256"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # the block is done again


def convert_block(block: Block) -> int:
    """Write the events of `block`, then its record, and return the bytes of HDF5 that were read.

    Nothing is done where a record stands. One event is in memory at a time.

    Raises:
        UserError: an event cannot be read, the store is not seen from here, or the disk is full (`NoSpace`).
    """
    path = record_path(block.records, block.number)
    if read_record(path) is not None:
        return 0
    if not block.store.is_dir():
        raise UserError(f"expected every worker to see {block.store}, got one that does not: share the folder")
    checksum = Checksum()
    size = 0
    with full_disk_in_words(block.store, "finished blocks are kept, and the same command goes on"):
        fields = open_values(block.store, block.events.quantity)
        try:
            for index, event_id in enumerate(block.events.ids):
                codes = block.events.read_codes(index)
                fields[block.first + index] = codes
                _remove_unfinished(block.store / block.events.quantity.name / "c" / str(block.first + index))
                checksum.add(event_id, codes)
                size += block.events.event_bytes
        finally:
            block.events.files.close()
        record = Record(block.first, len(block.events), checksum.hexdigest())
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(record._asdict())))
    return size


class Repair(NamedTuple):
    """A block to write again, and what it is to hold."""

    block: Block
    record: Record


def repair_block(repair: Repair) -> int:
    """`convert_block`, once the archive is seen to hold what the store was made of: else whole events would be lost.

    Raises:
        UserError: the archive holds other values by now, and nothing was written; or as `convert_block`.
    """
    block, checksum = repair.block, Checksum()
    for index, event_id in enumerate(block.events.ids):
        checksum.add(event_id, block.events.read_codes(index))
    if checksum.hexdigest() != repair.record.sha256:
        raise UserError(
            f"expected the values that {block.store} was made of, got others in {block.events.path} for block "
            f"{block.number}: convert the archive anew"
        )
    return convert_block(block)


def _remove_unfinished(folder: Path) -> None:
    """Remove what a killed writer left of chunks: zarr writes them under another name first."""
    for path in folder.glob("*/0/*.partial"):
        path.unlink(missing_ok=True)
