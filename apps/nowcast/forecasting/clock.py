"""Deadlines: when a nowcast must be there, and whether what is left to do fits in the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


class TooLate(Exception):
    """What is left to do would not be done in time. The message says so to whoever reads the file."""


@dataclass
class Deadline:
    """Seconds from now within which everything must be done.

    Attributes:
        seconds: from `start`.
        reserve: seconds kept for writing what is sent in place of what came too late.
        now: the clock.
        start: of the clock.
    """

    seconds: float
    reserve: float = 0.0
    now: Callable[[], float] = time.monotonic
    start: float = field(default=-1.0)

    def __post_init__(self) -> None:
        if self.start < 0.0:
            self.start = self.now()

    @property
    def elapsed(self) -> float:
        return self.now() - self.start

    def check_now(self) -> None:
        """Raise `TooLate` if only the reserve is left, whatever is left to do."""
        if self.elapsed > self.seconds - self.reserve:
            raise TooLate(f"sampling was not done after {self.elapsed:.1f} s and was given {self.seconds:g} s")

    def check(self, since: float, done: int, total: int) -> None:
        """Raise `TooLate` if work that began at `since` seconds and is done in part will not be done in time.

        What is left is taken to go at the pace of what is done.
        """
        elapsed = self.elapsed
        ready = elapsed + (elapsed - since) / done * (total - done)
        if done < total and ready > self.seconds - self.reserve:
            raise TooLate(f"sampling would have taken about {ready:.0f} s and was given {self.seconds:g} s")
