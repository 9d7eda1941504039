"""Windows of radar frames for training and evaluation: where they come from and how they are drawn.

Draws are pure functions of (seed, iteration), so that a training run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_tools.cli import UserError
from data_tools.quantities import QUANTITIES, Quantity
from data_tools.store import EventStore
from data_tools.storms import StormConfig, generate

SYNTHETIC = "storms"
"""The name that stands for synthetic storms where a store is expected."""

SEEDS = 1_000_000
"""Seeds run from 0 to this, so that the storms of a split never meet those of another."""

SPLIT_SEEDS = {"train": SEEDS, "val": 2 * SEEDS, "test": 3 * SEEDS}
"""Synthetic storms of different splits come from different seeds."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of consecutive frames, all of one split.

    Attributes:
        frames: (events, T, H, W) float32 on the stored scale, NaN where missing.
        ids: event ids, unique.
        sources: archive of each event.
        times: first time of each window.
        quantity: what the frames hold.
        time_step_minutes: time between frames of each event, (events,).
    """

    frames: np.ndarray
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    times: tuple[str, ...]
    quantity: Quantity
    time_step_minutes: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def moments(self) -> tuple[str, ...]:
        """Source and time of each window: windows that share them share a weather situation."""
        return tuple(f"{source} {time}" for source, time in zip(self.sources, self.times, strict=True))

    @property
    def fingerprint(self) -> str:
        """Hash of the ids and the frames, encoded and in half precision: says which data a number belongs to."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        for frames in self.frames:
            digest.update(self.quantity.encode(frames).astype(np.float16).tobytes())
        return digest.hexdigest()[:16]


def load_windows(data: str, split: str, length: int, *, events: int | None = None, seed: int = 0) -> Windows:
    """Read the windows of a split.

    Args:
        data: comma-separated event stores and `storms` (synthetic, `events` of them, made on the spot).
        split: train, val or test.
        length: frames per window; longer events are cut into windows that do not overlap.
        events: at most so many windows per source, drawn evenly over the source's events; all by default
            (96 for synthetic storms).
        seed: seed of the synthetic storms, 0 to `SEEDS` - 1.

    Raises:
        UserError: the seed is out of range; a store is missing or of another kind, has no events of the split, or
            another frame size or quantity than the first.
    """
    if not 0 <= seed < SEEDS:
        raise UserError(f"expected --seed from 0 to {SEEDS - 1}, got {seed}")
    parts = [_read_source(source.strip(), split, length, events, seed) for source in data.split(",")]
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
    return Windows(
        np.concatenate([part.frames for part in parts]),
        ids,
        tuple(s for part in parts for s in part.sources),
        tuple(t for part in parts for t in part.times),
        first.quantity,
        np.concatenate([part.time_step_minutes for part in parts]),
    )


def _read_source(source: str, split: str, length: int, events: int | None, seed: int) -> Windows:
    if source == SYNTHETIC:
        return _synthetic(split, length, 96 if events is None else events, seed)
    if not Path(source).exists():
        raise UserError(
            f"expected an event store or '{SYNTHETIC}', got {source}, which is not there; see data_tools.ingest"
        )
    store = EventStore.open(source)
    chosen = store.indices(split)
    if not chosen:
        raise UserError(
            f"expected events of split {split} in {source}, got none; choose another --split or ingest again"
        )
    if store.shape[1] < length:
        raise UserError(
            f"expected events of at least {length} frames in {source}, got {store.shape[1]}; see ingest --frames"
        )
    starts = range(0, store.shape[1] - length + 1, length)
    windows = [(event, start) for event in chosen for start in starts]
    if events is not None and events < len(windows):
        windows = [windows[round(k)] for k in np.linspace(0, len(windows) - 1, events)]
    frames = np.stack([store.read(e, slice(s, s + length)) for e, s in windows])
    suffix = len(starts) > 1
    return Windows(
        frames,
        tuple(f"{store.event_id(e)}+{s}" if suffix else store.event_id(e) for e, s in windows),
        tuple(store.source(e) for e, _ in windows),
        tuple(str(store.times(e)[s]) for e, s in windows),
        store.quantity,
        np.full(len(windows), store.time_step_seconds / 60.0),
    )


def _synthetic(split: str, length: int, events: int, seed: int) -> Windows:
    made = list(generate(events, SPLIT_SEEDS[split] + seed, StormConfig(frames=length), split))
    return Windows(
        np.stack([event.values for event in made]).astype(np.float32),
        tuple(event.id for event in made),
        tuple(event.source for event in made),
        tuple(str(event.times[0]) for event in made),
        QUANTITIES["rainfall_rate"],
        np.full(events, 5.0),
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


def draw_frames(windows: Windows, count: int, key: tuple[int, ...], crop: int | None = None) -> Tensor:
    """`count` single frames (count, 1, H, W) float32, missing pixels as no rain, each under a random symmetry.

    With `crop`, a random square of so many pixels of each.
    """
    source = generator(*key)
    _, moments, height, width = windows.frames.shape
    crop_h, crop_w = (height, width) if crop is None else (min(crop, height), min(crop, width))
    high = torch.tensor([len(windows), moments, 8, height - crop_h + 1, width - crop_w + 1])
    draws = (torch.rand((count, 5), generator=source, dtype=torch.float64) * high).long().tolist()
    frames = [
        dihedral(seen(windows, windows.frames[e, m, y : y + crop_h, x : x + crop_w]), k) for e, m, k, y, x in draws
    ]
    return torch.stack(frames)[:, None]


def seen(windows: Windows, frames: np.ndarray) -> Tensor:
    """Frames on the stored scale as the network sees them: in [0, 1], missing pixels as no rain."""
    return torch.from_numpy(np.nan_to_num(windows.quantity.encode(frames), nan=0.0))
