"""An event store as an archive of frames, so that `data_tools.ingest` cuts it anew: smaller windows, other splits.

Data of one's own come in as a store that `data_tools.store.write_store` wrote from arrays, an event an hour or a day of
whole frames. Events that follow each other by the time step are one run, as the files of an archive are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import numpy as np

from data_tools.archive import Grid, Stamp
from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE
from data_tools.sources import pixel_of
from data_tools.store import EventStore


@dataclass(frozen=True)
class StoredArchive:
    """A store of rain rates as a `data_tools.archive.Format`. Its frames have paths STORE/EVENT/NUMBER, of which EVENT
    is the id, quoted where it would not be one part of a path.

    Its name is the source that its events have, and licence and source are those of the store's attributes: what is cut
    out of it belongs to whom it belonged before.
    """

    store: EventStore
    grid_of_all: Grid

    @classmethod
    def open(cls, path: str | Path) -> StoredArchive:
        """Raises UserError: no store, a damaged one, another quantity, events of several places or sources."""
        store = EventStore.open(path, RAINFALL_RATE.name)
        if len(np.unique(store.origins, axis=0)) > 1:
            raise UserError(
                f"expected events of one place in {path}, got several: it holds windows already, cut the archive they "
                "came from"
            )
        if len(sources := sorted(set(store.sources))) > 1:
            got = f"{', '.join(sources[:3])}{', ...' if len(sources) > 3 else ''}"
            raise UserError(
                f"expected events of one source in {path}, got {got}: write a store of each, cut each alone"
            )
        width, height, units = pixel_of(store)
        if not (np.isfinite([width, height]).all() and width and height):
            raise UserError(f"damaged store {path}: expected pixels of a size, got {width} x {height}: copy it anew")
        x0, y0 = (float(corner) for corner in store.origins[0])
        rows, columns = store.shape[2:]
        return cls(store, Grid((rows, columns), x0, y0, (width, height), units, store.crs))

    @property
    def name(self) -> str:
        return self.store.sources[0]

    @property
    def source(self) -> str:
        return str(self.store.attrs["source"])

    @property
    def licence(self) -> str:
        return str(self.store.attrs["licence"])

    @property
    def step_seconds(self) -> int:
        """No frame is left out unless --frame_step says so, whatever time step the store tells of itself."""
        return 1

    @property
    def rate(self) -> str:
        return str(self.store.attrs.get("rate", "as in the store it was cut from"))

    def stamps(self) -> list[Stamp]:
        """All frames in the order of time.

        Raises:
            UserError: two events have a frame of one time.
        """
        frames = [Stamp(self.store.valid_times[place], path) for path, place in self._places.items()]
        frames.sort()
        for one, two in pairwise(frames):
            if one.time == two.time:
                got = f"{one.path.parent.name} and {two.path.parent.name} at {one.time}"
                raise UserError(f"expected one frame a time in {self.store.path}, got {got}: leave one of them out")
        return frames

    def time_of(self, path: Path) -> np.datetime64 | None:
        return self.store.valid_times[self._places[path]] if path in self._places else None

    def grid(self, path: Path) -> Grid:
        return self.grid_of_all

    def read(self, paths: Sequence[Path]) -> Iterator[np.ndarray]:
        """Frames in the order of `paths` as uint16 codes; successive frames of one chunk are read together."""
        chunk = self.store.fields.chunks[1]
        first = 0
        while first < len(paths):
            event, start = self._places[paths[first]]
            last = first + 1
            while last < len(paths) and self._places[paths[last]] == (event, start + last - first):
                if (start + last - first) % chunk == 0:
                    break
                last += 1
            yield from self.store.read_codes(event, slice(start, start + last - first))
            first = last

    @cached_property
    def _places(self) -> dict[Path, tuple[int, int]]:
        """Path -> (event, number of the frame in it)."""
        return {
            self.store.path / quote(name, safe=" :") / str(number): (event, number)
            for event, name in enumerate(self.store.ids)
            for number in range(self.store.shape[1])
        }
