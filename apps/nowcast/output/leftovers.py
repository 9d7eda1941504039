"""What processes that were killed while they wrote an output left beside it, hidden and half written."""

from __future__ import annotations

import os
import re
from pathlib import Path

from data_tools.writing import remove_left

_STAMP = r"-[0-9]{8}T[0-9]{6}Z"
"""The time that stands in the name of a nowcast of a watched folder, see `watching.stamped`."""


def partial(path: Path, what: str = "part") -> Path:
    """The hidden neighbour of `path` that this process writes to; `what` is `part`, or `old` for what is replaced."""
    return path.with_name(f".{path.stem}.{os.getpid()}.{what}{path.suffix}")


def clear(path: Path, *, stamped: bool = False, what: str = "part") -> None:
    """Remove what processes that no longer live left of `path`, by the names of `partial` and those of
    `core.fitting.write_atomically`; of a living process, nothing.

    Args:
        path: of the output; its folder need not be there.
        stamped: of the outputs of all times whose name without the time is this.
        what: see `partial`.
    """
    stem, suffix = re.escape(path.stem) + (_STAMP if stamped else ""), re.escape(path.suffix)
    for name in (rf"\.{stem}\.([0-9]+)\.{what}{suffix}", rf"\.{stem}{suffix}\.([0-9]+)\.{what}"):
        remove_left(path.parent, re.compile(name))
