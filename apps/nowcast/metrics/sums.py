"""Statistics of events, and their sums over events, of all or of bootstrap resamples.

The arrays may be in memory or in a file (`apps.nowcast.verification.store`): sums are taken over blocks of events, and
only of the statistics that a metric looks at, so that memory does not grow with the number of events.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from apps.nowcast.metrics.resampling import Weights

Sums = Mapping[str, np.ndarray]
"""Statistics summed over events: name -> array (*resamples, *statistic)."""

_BLOCK = 256
"""Events that are read at a time."""


class Rows(Protocol):
    """An array (events, ...) of which rows are read: NumPy's or Zarr's."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class Lazily(Mapping[str, np.ndarray]):
    """Sums that are taken when they are first looked at."""

    def __init__(self, names: Iterable[str], take: Callable[[str], np.ndarray]) -> None:
        self._names, self._take = tuple(names), take
        self._taken: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._taken:
            self._taken[name] = self._take(name)
        return self._taken[name]

    @property
    def nbytes(self) -> int:
        """Of what was looked at."""
        return sum(array.nbytes for array in self._taken.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Statistics:
    """Statistics of one method.

    Attributes:
        events: one name each.
        arrays: name -> (event, lead, ...), rows as in `events` or, where there are `rows`, more than those.
        rows: ascending, which rows of the arrays belong to `events`; all where None.
    """

    events: tuple[Hashable, ...]
    arrays: Mapping[str, Rows]
    rows: np.ndarray | None = None

    @classmethod
    def stack(cls, rows: Iterable[tuple[Hashable, Mapping[str, np.ndarray]]]) -> Statistics:
        """From (event, statistics of that event) pairs.

        Raises:
            ValueError: there are none.
        """
        events, each = zip(*rows, strict=True) if (rows := list(rows)) else ((), ())
        if not each:
            raise ValueError("expected statistics of at least one event, got none")
        return cls(tuple(events), {name: np.stack([row[name] for row in each]) for name in each[0]})

    def total(self) -> Lazily:
        """Sums over all events."""
        return Lazily(self.arrays, lambda name: sum(part.sum(axis=0) for _, part in self.blocks(name)))  # type: ignore[arg-type,return-value]

    def resampled(self, weights: Weights) -> Lazily:
        """Sums for each row of `weights` (resamples, events)."""

        def take(name: str) -> np.ndarray:
            result: np.ndarray | float = 0.0
            for place, part in self.blocks(name):
                rows = weights[:, place].astype(np.float64)  # counts stay exact below 2^53; the product runs in BLAS
                result = result + np.tensordot(rows, part, axes=1)
            return np.asarray(result)

        return Lazily(self.arrays, take)

    def of_parts(self, parts: Sequence[tuple[np.ndarray, Weights]]) -> list[tuple[Lazily, Lazily]]:
        """(`total`, `resampled`) of parts of the events, as of `where`, each statistic read once for all parts.

        Args:
            parts: (which events are in it, bool (events,); weights (resamples, events of the part)).
        """
        taken: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

        def taking(number: int, which: int) -> Lazily:
            def take(name: str) -> np.ndarray:
                if name not in taken:
                    taken[name] = self._sums_of_parts(name, parts)
                return taken[name][number][which]

            return Lazily(self.arrays, take)

        return [(taking(number, 0), taking(number, 1)) for number in range(len(parts))]

    def _sums_of_parts(
        self, name: str, parts: Sequence[tuple[np.ndarray, Weights]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        totals: list[Any] = [0] * len(parts)
        drawn: list[Any] = [0.0] * len(parts)
        before = [0] * len(parts)  # events of each part in the blocks so far
        for place, block in self.blocks(name):
            for number, (chosen, weights) in enumerate(parts):
                part = block[chosen[place]]
                if len(part):
                    columns = weights[:, before[number] : before[number] + len(part)]
                    totals[number] = totals[number] + part.sum(axis=0)
                    drawn[number] = drawn[number] + np.tensordot(columns.astype(np.float64), part, axes=1)
                    before[number] += len(part)
        return list(zip(totals, drawn, strict=True))

    def blocks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """(which events, their statistic) block by block."""
        array = self.arrays[name]
        for first in range(0, len(self.events), _BLOCK):
            place = slice(first, first + _BLOCK)
            if self.rows is None:
                yield place, np.asarray(array[place])
            else:
                rows = self.rows[place]
                yield place, np.asarray(array[rows[0] : rows[-1] + 1])[rows - rows[0]]

    def per_event(self, name: str) -> np.ndarray:
        """One statistic of every event, (events, ...), in memory."""
        return np.concatenate([part for _, part in self.blocks(name)])

    def where(self, chosen: np.ndarray) -> Statistics:
        """Those events for which `chosen` (events,) is true."""
        numbers = np.flatnonzero(chosen)
        rows = numbers if self.rows is None else self.rows[numbers]
        return Statistics(tuple(self.events[number] for number in numbers), self.arrays, rows)

    def at_lead(self, lead: int) -> Statistics:
        """The statistics of one lead time, as if no other had been forecast."""
        return Statistics(self.events, {k: v[:, lead : lead + 1] for k, v in self.arrays.items()}, self.rows)

    def grouped(self, labels: Sequence[Hashable]) -> Statistics:
        """Events with one label (windows cut from one storm, say) summed into one, to be resampled together.

        Raises:
            ValueError: not one label per event.
        """
        if len(labels) != len(self.events):
            raise ValueError(f"expected one label per event ({len(self.events)}), got {len(labels)}")
        groups = tuple(dict.fromkeys(labels))
        belongs = np.array([[label == group for label in labels] for group in groups])
        each = {name: self.per_event(name) for name in self.arrays}
        return Statistics(groups, {k: np.tensordot(belongs.astype(v.dtype), v, axes=1) for k, v in each.items()})
