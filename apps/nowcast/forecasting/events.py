"""An event of an event store, or of SEVIR's own files, as a source of frames: a past whose future is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apps.nowcast.forecasting.scene import Place
from data_tools.cli import UserError
from data_tools.quantities import Quantity
from data_tools.sources import open_events, pixel_of
from data_tools.table import EventTable


@dataclass(frozen=True)
class StoredEvent:
    """One event; which one is told in the notes."""

    table: EventTable
    index: int
    usual_step: int | None = None

    @classmethod
    def open(cls, path: Path, event: str | None, at: np.datetime64 | None) -> StoredEvent:
        """The named event; else the first of those whose frames include the time `at`, or that end last.

        Raises:
            UserError: no store, a damaged one, no such event, or none at that time.
        """
        table = open_events(path)
        if event is not None:
            if event not in table.ids:
                raise UserError(f"expected --event in {path}, got {event}: see data_tools.inspect")
            return cls(table, table.ids.index(event))
        first, last = table.valid_times[:, 0], table.valid_times[:, -1]
        if at is None:
            return cls(table, int(last.argmax()))
        around = np.flatnonzero((first <= at) & (at <= last))
        if not len(around):
            raise UserError(f"expected an event of {path} at --time {at}, got none from {first.min()} to {last.max()}")
        return cls(table, int(around[0]))

    @property
    def name(self) -> str:
        return self.table.source(self.index)

    @property
    def title(self) -> str:
        licence = self.table.attrs.get("licence", "licence not told")
        return f"{self.table.attrs.get('source', self.name)}; {licence}"

    @property
    def quantity(self) -> Quantity:
        return self.table.quantity

    @property
    def times(self) -> np.ndarray:
        return self.table.times(self.index)

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"event {self.table.event_id(self.index)}",)

    def read(self, index: int) -> tuple[np.ndarray, Place, tuple[str, ...]]:
        frame = self.table.read(self.index, slice(index, index + 1))[0]
        width, height, units = pixel_of(self.table)
        x0, y0 = (float(value) for value in self.table.origins[self.index])
        rows, columns = frame.shape
        x = x0 + (np.arange(columns) + 0.5) * width
        return frame, Place(x, y0 + (np.arange(rows) + 0.5) * height, units, dict(self.table.crs)), ()
