"""The manifest of a store: a checksum for each block of events, and the comparison of a store with it.

It lies in the folder of the fields, which zarr does not list, so that it goes where the store goes. The checksum of
a block is the SHA-256 over, event by event, the id in UTF-8, a zero byte and the codes (T, H, W) in C order: of the
decoded values, so that it holds whatever codec packed them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.fitting import write_atomically
from data_tools.cli import UserError
from data_tools.quantities import Quantity
from data_tools.store import EventStore

FORMAT, VERSION = "spanlift-manifest", 1
NAME = "manifest.json"


class Record(NamedTuple):
    """What a finished block is known by: its first event, how many they are, and their checksum."""

    first: int
    count: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a store was made of.

    Attributes:
        identity: of the conversion (`data_tools.conversion.plan`).
        blocks: in the order of the store, without gaps.
    """

    identity: str
    blocks: tuple[Record, ...]


class Checksum:
    """The checksum of a block, event by event."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, event_id: str, codes: np.ndarray) -> None:
        self._digest.update(event_id.encode() + b"\0")
        self._digest.update(np.ascontiguousarray(codes).data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def manifest_path(store: Path, quantity: Quantity) -> Path:
    return store / quantity.name / NAME


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write it atomically, with a checksum of itself."""
    content = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    content["blocks"] = [record._asdict() for record in manifest.blocks]
    content["sha256"] = _digest(content)
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1)))


def read_manifest(path: Path, events: int) -> Manifest | None:
    """The manifest at `path`, of so many events; None where there is none.

    Raises:
        UserError: it is no manifest, of another version, damaged, or does not cover the events.
    """
    if not path.is_file():
        return None
    try:
        content: Any = json.loads(path.read_text())
        checksum = content.pop("sha256")
        if (content.pop("format"), content.pop("version")) != (FORMAT, VERSION):
            raise ValueError("another format")
        if checksum != _digest({"format": FORMAT, "version": VERSION, **content}):
            raise ValueError("another checksum")
        blocks = tuple(Record(int(row["first"]), int(row["count"]), str(row["sha256"])) for row in content["blocks"])
        manifest = Manifest(str(content["identity"]), blocks)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"expected a manifest at {path}, got a damaged one ({reason}): copy the store anew") from error
    ends = [0, *(record.first + record.count for record in blocks)]
    if ends[:-1] != [record.first for record in blocks] or ends[-1] != events:
        raise UserError(f"expected a manifest of {events} events at {path}, got one of others: copy the store anew")
    return manifest


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Check(NamedTuple):
    """A block to compare: `record` is None where the store has no manifest."""

    store: Path
    number: int
    first: int
    count: int
    sha256: str | None


def checks_of(store: EventStore, manifest: Manifest | None, block: int) -> Iterator[Check]:
    """What to compare: the blocks of the manifest, or of `block` events each where there is none."""
    if manifest is not None:
        for number, record in enumerate(manifest.blocks):
            yield Check(store.path, number, *record)
        return
    for number, first in enumerate(range(0, len(store), block)):
        yield Check(store.path, number, first, min(block, len(store) - first), None)


def check_block(check: Check) -> list[str]:
    """What is wrong with a block, in words; every event of it is read, and all damaged ones are named."""
    store = EventStore.open(check.store)
    checksum = Checksum()
    problems = []
    for index in range(check.first, check.first + check.count):
        try:
            checksum.add(store.ids[index], store.read_codes(index))
        except UserError as error:
            problems.append(str(error))
    if not problems and check.sha256 not in {None, checksum.hexdigest()}:
        names = f"{store.ids[check.first]} to {store.ids[check.first + check.count - 1]}"
        problems.append(
            f"expected the values of the manifest in events {names} of {check.store}, got others: copy the store anew"
        )
    return [f"block {check.number}: {problem}" for problem in problems]
