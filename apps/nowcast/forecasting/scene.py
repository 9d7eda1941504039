"""A scene: the observed frames that a nowcast starts from, where they lie and what had to be mended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from data_tools.archive import Grid
from data_tools.quantities import Quantity


@dataclass(frozen=True)
class Place:
    """Where the pixels of a frame lie.

    Attributes:
        x, y: (columns,) and (rows,) float64 pixel centres, evenly spaced, rising or falling, in `units`.
        units: CF units of the projection coordinates, `degrees` of longitude and latitude or of a rotated pole's.
        crs: CF grid-mapping attributes; empty where nothing is known.
    """

    x: np.ndarray
    y: np.ndarray
    units: str
    crs: Mapping[str, Any]

    @classmethod
    def of_grid(cls, grid: Grid) -> Place:
        rows, columns = grid.shape
        width, height = grid.pixel_size
        x = grid.x0 + (np.arange(columns) + 0.5) * width
        return cls(x, grid.y0 + (np.arange(rows) + 0.5) * height, grid.units, dict(grid.crs))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.y), len(self.x)

    @property
    def is_geographic(self) -> bool:
        """Whether x and y are longitude and latitude."""
        return self.units.startswith("degree") and not self.is_rotated

    @property
    def is_rotated(self) -> bool:
        """Whether x and y are longitude and latitude of a grid whose pole is elsewhere."""
        return self.crs.get("grid_mapping_name") == "rotated_latitude_longitude"

    @property
    def north_up(self) -> bool:
        """Whether row 0 is the northernmost."""
        return len(self.y) < 2 or bool(self.y[0] > self.y[-1])


class FrameSource(Protocol):
    """Something that holds radar frames.

    Attributes:
        name: short, for attributes and messages.
        title: what the archive is and under which licence, as its own attributes say.
        quantity: of the frames.
        times: (N,) datetime64[s], UTC, rising, no two alike.
        usual_step: seconds between frames that suit a nowcast of this archive; None where it has no habit.
        notes: what was odd about the whole, in words.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def quantity(self) -> Quantity: ...
    @property
    def times(self) -> np.ndarray: ...
    @property
    def usual_step(self) -> int | None: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    def read(self, index: int) -> tuple[np.ndarray, Place, tuple[str, ...]]:
        """Frame `index` (H, W) float32 on the quantity's scale, NaN missing, not negative; its place; notes.

        Raises `UserError` for a frame that is damaged, foreign or of impossible values.
        """
        ...


@dataclass(frozen=True)
class Scene:
    """The frames that a nowcast starts from.

    Attributes:
        frames: (context frames, H, W) float32 on the quantity's scale, NaN where missing.
        times: (context frames,) datetime64[s], the even times that the model takes the frames to be of; the last is
            when the nowcast begins.
        step_seconds: between frames, observed and forecast.
        substituted: for each wanted time that had no frame, (wanted, time of the frame that stands for it).
        notes: what else was odd, in words.
    """

    frames: np.ndarray
    times: np.ndarray
    step_seconds: int
    quantity: Quantity
    place: Place
    name: str
    title: str
    substituted: Sequence[tuple[np.datetime64, np.datetime64]] = ()
    notes: Sequence[str] = field(default=())

    @property
    def init_time(self) -> np.datetime64:
        return self.times[-1]

    def valid_times(self, leads: int) -> np.ndarray:
        """(leads,) datetime64[s]."""
        return self.init_time + np.arange(1, leads + 1) * np.timedelta64(self.step_seconds, "s")

    @property
    def unobserved(self) -> np.ndarray:
        """(H, W): pixels that no frame shows. Nothing is forecast there."""
        return np.asarray(np.isnan(self.frames).all(0))

    @property
    def missing_fraction(self) -> float:
        """Share of the pixels that are missing in a frame, over all frames, among those that some frame shows."""
        seen = ~self.unobserved
        return float(np.isnan(self.frames[:, seen]).mean()) if seen.any() else 1.0

    def filled(self) -> np.ndarray:
        """The frames without missing pixels: of the frame nearest in time that shows the pixel, the earlier of two;
        0 where none does, as in training."""
        unobserved = self.unobserved
        return np.stack([self._filled(number, unobserved) for number in range(len(self.frames))])

    def newest(self) -> np.ndarray:
        """(H, W): the last of the frames of `filled`."""
        return self._filled(len(self.frames) - 1, self.unobserved)

    def _filled(self, number: int, unobserved: np.ndarray) -> np.ndarray:
        frame = self.frames[number].copy()
        frame[unobserved] = 0.0
        for other in sorted(range(len(self.frames)), key=lambda k: (abs(k - number), k)):
            missing = np.isnan(frame)
            if not missing.any():
                break
            np.copyto(frame, self.frames[other], where=missing)
        return frame
