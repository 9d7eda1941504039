"""Deadlines: when a nowcast must be there, and whether what is left to do fits in the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

CAUTION = 2.0
"""Part of a nowcast is begun if so many times what it last took is left: a machine is busier at times."""


class TooLate(Exception):
    """What is left to do would not be done in time. The message says so to whoever reads the file."""


@dataclass
class Costs:
    """Seconds for a million pixels of the domain that parts of a nowcast took, as measured on this machine.

    They outlive a nowcast: `production.warm_up` measures them on a small field, then each nowcast does.
    """

    rates: dict[str, float] = field(default_factory=dict)

    def expect(self, part: str, pixels: int) -> float:
        """Seconds to set aside for a part; 0 where it has never been measured."""
        return CAUTION * self.rates.get(part, 0.0) * pixels / 1e6

    def learn(self, part: str, pixels: int, seconds: float) -> None:
        """Remember what a part took; one quick time makes the expectation only half as much lower."""
        rate = seconds / max(pixels, 1) * 1e6
        self.rates[part] = max(rate, (rate + self.rates.get(part, rate)) / 2)


@dataclass
class Deadline:
    """Seconds from now within which everything must be done.

    Attributes:
        seconds: from `start`.
        reserve: seconds kept for writing what is sent in place of what came too late.
        now: the clock.
        start: of the clock.
        costs: what parts took before.
    """

    seconds: float
    reserve: float = 0.0
    now: Callable[[], float] = time.monotonic
    start: float = field(default=-1.0)
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        if self.start < 0.0:
            self.start = self.now()

    @property
    def elapsed(self) -> float:
        return self.now() - self.start

    @property
    def left(self) -> float:
        """Seconds until only the reserve is left, below 0 after that."""
        return self.seconds - self.reserve - self.elapsed

    def keep_for_writing(self, pixels: int) -> None:
        """Raise the reserve to what writing a domain of so many pixels is expected to take."""
        self.reserve = max(self.reserve, self.costs.expect("writing", pixels))

    def allows(self, part: str, pixels: int) -> bool:
        """Whether a part is expected to be done before only the reserve is left."""
        left = self.left
        return left > 0.0 and self.costs.expect(part, pixels) <= left

    def check_now(self) -> None:
        """Raise `TooLate` if only the reserve is left, whatever is left to do."""
        elapsed = self.elapsed
        if elapsed > self.seconds - self.reserve:
            raise TooLate(f"sampling was not done after {elapsed:.1f} s and was given {self.seconds:g} s")

    def check(self, since: float, done: int, total: int) -> None:
        """Raise `TooLate` if work that began at `since` seconds and is done in part will not be done in time.

        What is left is taken to go at the pace of what is done.
        """
        elapsed = self.elapsed
        ready = elapsed + (elapsed - since) / done * (total - done)
        if done < total and ready > self.seconds - self.reserve:
            raise TooLate(f"sampling would have taken about {ready:.0f} s and was given {self.seconds:g} s")
