"""Processes that kill themselves (SIGKILL) at a place in their work, and not after a time, which a busy machine bends.

`python dying.py PLACE COUNT MODULE ARGUMENT...` runs a module as `python -m` does until files whose path ends in, or
goes through, PLACE have been written or renamed to COUNT times; it dies at whatever it does with a file next.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_writing(place: str, count: int) -> None:
    left = count

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "os.rename" or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if left == 0 and (writes or event == "open"):
            die()
        if writes and place in str(arguments[event == "os.rename"]):
            left -= 1

    sys.addaudithook(watch)


class Calls:
    """Counts the calls that this thread makes from now on, of Python's functions and of C's; dies at the last."""

    def __init__(self, last: int | None = None) -> None:
        self.count, self.last = 0, last
        sys.setprofile(self._event)

    def _event(self, frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.count += 1
            if self.count == self.last:
                die()

    def write(self, path: Path) -> None:
        """End counting and leave the number in a file."""
        sys.setprofile(None)
        path.write_text(str(self.count))


if __name__ == "__main__":
    die_after_writing(sys.argv[1], int(sys.argv[2]))
    sys.argv = sys.argv[3:]
    sys.path[0] = os.getcwd()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
