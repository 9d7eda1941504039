"""What the methods of a store of statistics share: how they are scored, the events, and the event that is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scope:
    """What all methods of a store have in common; only such statistics can be compared.

    Attributes:
        fingerprint: of the events and their frames (`Windows.fingerprint`).
        quantity: name.
        thresholds: on its scale.
        windows: sides of the windows of the fractions skill score, in pixels.
        leads: number of lead times.
        size: (height, width) of the frames in pixels.
        distance: which perceptual distance.
    """

    fingerprint: str
    quantity: str
    thresholds: tuple[float, ...]
    windows: tuple[int, ...]
    leads: int
    size: tuple[int, int]
    distance: str


@dataclass(frozen=True)
class Events:
    """The events of a store, in the order of its rows.

    Attributes:
        ids, sources, times: a text each (see `Windows`).
        time_step_minutes: (events,), between frames.
        motion: (events,), pixels that rain moved from frame to frame before the forecast; NaN where there was none.
    """

    ids: tuple[str, ...]
    sources: tuple[str, ...]
    times: tuple[str, ...]
    time_step_minutes: np.ndarray
    motion: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def moments(self) -> tuple[str, ...]:
        """Source and time of each event: those that share them share a weather situation."""
        return tuple(f"{source} {time}" for source, time in zip(self.sources, self.times, strict=True))


@dataclass(frozen=True)
class Picture:
    """The event that is drawn: its id, context (T, H, W) and truth (leads, H, W), stored scale, NaN missing; whether
    row 0 is the northernmost, None where nobody told."""

    event: str
    context: np.ndarray
    truth: np.ndarray
    north_up: bool | None = None


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first entry that is not the same in both, with its values; empty where all are."""
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            return f"{name} ({one.get(name)} and {other.get(name)})"
    return ""
