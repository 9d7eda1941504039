"""Windows of radar frames for training and evaluation: where they come from and how they are drawn.

Draws are pure functions of (seed, iteration), so that a training run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apps.nowcast.stored_frames import Frames, Place, StoredFrames, join_frames
from data_tools.cli import UserError
from data_tools.quantities import QUANTITIES, Quantity
from data_tools.sevir_events import SevirEvents
from data_tools.sources import pixel_of
from data_tools.split_files import Part, read_split
from data_tools.store import EventStore
from data_tools.storms import StormConfig, generate
from data_tools.table import EventTable

SYNTHETIC = "storms"
"""The name that stands for synthetic storms where a store is expected."""

SEEDS = 1_000_000
"""Seeds run from 0 to this, so that the storms of a split never meet those of another."""

SPLIT_SEEDS = {"train": SEEDS, "val": 2 * SEEDS, "test": 3 * SEEDS}
"""Synthetic storms of different splits come from different seeds."""

IN_MEMORY = 4 * 2**30
"""Bytes of frames, as float32, that are read at once; more of them stay in their stores and are read as needed."""


@dataclass(frozen=True)
class Windows:
    """Windows of consecutive frames, all of one split.

    Attributes:
        frames: (events, T, H, W) float32 on the stored scale, NaN where missing; in memory, or on disk and indexed
            alike.
        ids: event ids, unique.
        sources: archive of each event.
        times: first time of each window.
        quantity: what the frames hold.
        time_step_minutes: time between frames of each event, (events,).
        north_up: of each event, whether row 0 is the northernmost, as the archive says; empty where nobody told.
    """

    frames: Frames
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    times: tuple[str, ...]
    quantity: Quantity
    time_step_minutes: np.ndarray
    north_up: tuple[bool, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def moments(self) -> tuple[str, ...]:
        """Source and time of each window: windows that share them share a weather situation."""
        return tuple(f"{source} {time}" for source, time in zip(self.sources, self.times, strict=True))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the ids and the frames, encoded and in half precision: says which data a number belongs to."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        if isinstance(self.frames, StoredFrames):
            halves = self.frames.encoded_halves(self.quantity)
        else:
            halves = (self.quantity.encode(frames).astype(np.float16) for frames in self.frames)
        for frames in halves:
            digest.update(frames.tobytes())
        return digest.hexdigest()[:16]


def load_windows(
    data: str,
    split: str,
    length: int,
    *,
    events: int | None = None,
    seed: int = 0,
    listed: Part | None = None,
    in_memory: int = IN_MEMORY,
) -> Windows:
    """The windows of a split.

    Args:
        data: comma-separated event stores, SEVIR folders and `storms` (synthetic, `events` of them, made on the spot).
        split: train, val or test.
        length: frames per window; longer events are cut into windows that do not overlap.
        events: at most so many windows per source, drawn evenly over the source's events; all by default
            (96 for synthetic storms).
        seed: seed of the synthetic storms, 0 to `SEEDS` - 1.
        listed: take these windows, overlapping or not, whatever split the stores have their events in.
        in_memory: bytes as float32 that may be read at once; more windows are left where they are and read as needed.

    Raises:
        UserError: the seed is out of range; a store is missing or of another kind, has no events of the split, or
            another frame size or quantity than the first; a listed window is of another length or not there.
    """
    if not 0 <= seed < SEEDS:
        raise UserError(f"expected --seed from 0 to {SEEDS - 1}, got {seed}")
    if listed is not None and listed.frames != length:
        raise UserError(f"expected listed windows of {length} frames, got {listed.frames}: choose another split")
    sources = [source.strip() for source in data.split(",")]
    parts = [_read_source(source, split, length, events, seed, listed) for source in sources]
    first = parts[0]
    for source, part in zip(data.split(","), parts, strict=True):
        if part.quantity != first.quantity:
            raise UserError(
                f"expected stores of one quantity, got {first.quantity.name} and {part.quantity.name} in {source}"
            )
        if part.frames.shape[1:] != first.frames.shape[1:]:
            raise UserError(
                f"expected windows of {first.frames.shape[1:]} in {source}, got {part.frames.shape[1:]}; "
                "ingest with one --patch"
            )
    ids = tuple(i for part in parts for i in part.ids)
    if len(set(ids)) != len(ids):
        raise UserError(f"expected every event once, got an event twice among {data}; name each store once")
    if listed is not None and events is None and len(ids) < len(listed):
        raise UserError(f"expected {len(listed)} listed windows in {data}, got {len(ids)}: convert the whole archive")
    return Windows(
        join_frames([part.frames for part in parts], in_memory),
        ids,
        tuple(s for part in parts for s in part.sources),
        tuple(t for part in parts for t in part.times),
        first.quantity,
        np.concatenate([part.time_step_minutes for part in parts]),
        tuple(up for part in parts for up in part.north_up),
    )


def listed_windows(path: str | None, split: str) -> Part | None:
    """The windows that a file of data_tools.splits lists for a split; None without a file.

    Raises:
        UserError: no such file, or no file of that kind.
    """
    return None if path is None else read_split(path).part(split)


def _read_source(source: str, split: str, length: int, events: int | None, seed: int, listed: Part | None) -> Windows:
    if source == SYNTHETIC:
        if listed is not None:
            raise UserError(f"expected stores of listed windows, got {SYNTHETIC}: they are nobody's list")
        return _synthetic(split, length, 96 if events is None else events, seed)
    table = open_events(source)
    windows = _cut(table, source, split, length) if listed is None else _find(table, source, listed)
    if events is not None and events < len(windows):
        windows = [windows[round(k)] for k in np.linspace(0, len(windows) - 1, events)]
    suffix = listed is not None or table.shape[1] >= 2 * length
    return Windows(
        StoredFrames([Place(table, event, start) for event, start in windows], length),
        tuple(f"{table.event_id(e)}+{s}" if suffix else table.event_id(e) for e, s in windows),
        tuple(table.source(e) for e, _ in windows),
        tuple(str(table.times(e)[s]) for e, s in windows),
        table.quantity,
        np.full(len(windows), table.time_step_seconds / 60.0),
        (pixel_of(table)[1] < 0,) * len(windows),
    )


def open_events(source: str) -> EventTable:
    """The event store, or the folder or catalogue of a SEVIR archive, at `source`.

    Raises:
        UserError: there is neither, or it is damaged.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"expected an event store or '{SYNTHETIC}', got {source}, which is not there; see data_tools.ingest"
        )
    is_sevir = path.suffix == ".csv" or (path / "CATALOG.csv").is_file()
    return SevirEvents.open(path) if is_sevir else EventStore.open(path)


def _cut(table: EventTable, source: str, split: str, length: int) -> list[tuple[int, int]]:
    """(event, first frame) of windows that do not overlap."""
    chosen = table.indices(split)
    if not chosen:
        raise UserError(
            f"expected events of split {split} in {source}, got none; choose another --split, or split the store by "
            "data_tools.ingest --format store"
        )
    if table.shape[1] < length:
        raise UserError(
            f"expected events of at least {length} frames in {source}, got {table.shape[1]}; see ingest --frames"
        )
    return [(event, start) for event in chosen for start in range(0, table.shape[1] - length + 1, length)]


def _find(table: EventTable, source: str, listed: Part) -> list[tuple[int, int]]:
    """(event, first frame) of the listed windows that are there."""
    if table.shape[1] != listed.raw_frames:
        raise UserError(
            f"expected events of {listed.raw_frames} frames as listed in {source}, got {table.shape[1]}: "
            "convert SEVIR with or without --lr, or make the split with other --frames"
        )
    places = {name: index for index, name in enumerate(table.ids)}
    windows = [(places[name], start) for name, start in listed.within(places).windows]
    if not windows:
        raise UserError(f"expected listed windows in {source}, got none: is it another archive?")
    return windows


def _synthetic(split: str, length: int, events: int, seed: int) -> Windows:
    made = list(generate(events, SPLIT_SEEDS[split] + seed, StormConfig(frames=length), split))
    return Windows(
        np.stack([event.values for event in made]).astype(np.float32),
        tuple(event.id for event in made),
        tuple(event.source for event in made),
        tuple(str(event.times[0]) for event in made),
        QUANTITIES["rainfall_rate"],
        np.full(events, 5.0),
        (True,) * events,
    )


def dihedral(frames: Tensor, element: int) -> Tensor:
    """A symmetry of the square on the last two axes: `element % 4` quarter turns, mirrored for elements 4 to 7."""
    turned = torch.rot90(frames, element % 4, (-2, -1))
    return turned.flip(-1) if element >= 4 else turned


def generator(*key: int) -> torch.Generator:
    """A generator that depends on the whole key: (seed, iteration), (seed, event, member), ..."""
    digest = hashlib.sha256(",".join(str(int(k)) for k in key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def member_seed(seed: int, event_id: str, member: int) -> int:
    """Seed of a member: it depends on the run's seed, the event and the member, never on the batch."""
    digest = hashlib.sha256(f"{seed}/{event_id}/{member}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def draw_frames(
    windows: Windows, count: int, key: tuple[int, ...], crop: int | None = None, rows: slice = slice(None)
) -> Tensor:
    """`count` single frames (count, 1, H, W) float32, missing pixels as no rain, each under a random symmetry.

    With `crop`, a random square of so many pixels of each. `rows` says which of them to read; at least one.
    """
    source = generator(*key)
    _, moments, height, width = windows.frames.shape
    crop_h, crop_w = (height, width) if crop is None else (min(crop, height), min(crop, width))
    high = torch.tensor([len(windows), moments, 8, height - crop_h + 1, width - crop_w + 1])
    draws = (torch.rand((count, 5), generator=source, dtype=torch.float64) * high).long()[rows].tolist()
    frames = [
        dihedral(seen(windows, windows.frames[e, m, y : y + crop_h, x : x + crop_w]), k) for e, m, k, y, x in draws
    ]
    return torch.stack(frames)[:, None]


def seen(windows: Windows, frames: np.ndarray) -> Tensor:
    """Frames on the stored scale as the network sees them: in [0, 1], missing pixels as no rain."""
    return torch.from_numpy(np.nan_to_num(windows.quantity.encode(frames), nan=0.0))
