"""Splits as data: parts, their windows, their hashes, and the JSON file that holds them (see `data_tools.splits`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from core.fitting import write_atomically
from data_tools.cli import UserError

FORMAT = "spanlift split"
VERSION = 1

ShardMode = Literal["floor", "ceil", "uneven"]


class Window(NamedTuple):
    """A window of an event: its id and the position of the first frame."""

    event: str
    start: int


def shard(count: int, rank: int, ranks: int, mode: ShardMode) -> range:
    """Which of `count` events are those of `rank` of `ranks`, by the modes of the published loaders.

    Shares begin at multiples of q = count // ranks. `floor`: q each, the rest is nobody's. `uneven`: the last rank has
    the rest, too. `ceil`: all have as many as that last rank, so that neighbours overlap.

    Raises:
        ValueError: no such rank or mode.
    """
    if not 0 <= rank < ranks:
        raise ValueError(f"expected a rank from 0 to {ranks - 1}, got {rank}")
    share = count // ranks
    start, longest = rank * share, count - (ranks - 1) * share
    sizes = {"floor": share, "ceil": longest, "uneven": longest if rank == ranks - 1 else share}
    if mode not in sizes:
        raise ValueError(f"expected a mode out of {', '.join(sizes)}, got {mode!r}")
    return range(start, start + sizes[mode])


@dataclass(frozen=True, slots=True)
class Part:
    """Windows in their order.

    Attributes:
        raw_frames: frames of the events that they are cut from.
        frames: frames of a window.
        windows: each an event's id and a first frame.

    Raises:
        ValueError: a window without frames, or one that leads out of its event.
    """

    raw_frames: int
    frames: int
    windows: tuple[Window, ...]

    def __post_init__(self) -> None:
        outside = [window for window in self.windows if not 0 <= window.start <= self.raw_frames - self.frames]
        if outside or self.frames < 1:
            wrong = f"{self.frames} frames from {outside[0].start} on" if outside else f"{self.frames} frames"
            raise ValueError(f"expected windows inside events of {self.raw_frames} frames, got {wrong}")

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def events(self) -> tuple[str, ...]:
        """The ids, each once, in the order of their first windows."""
        return tuple(dict.fromkeys(window.event for window in self.windows))

    @property
    def sha256(self) -> str:
        """Hash of the windows in their order."""
        lines = [f"{self.frames} of {self.raw_frames}", *(f"{event} {start}" for event, start in self.windows)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def within(self, ids: Collection[str]) -> Part:
        """The windows whose events are in `ids`: what can be read where only a part of the archive is at hand."""
        known = set(ids)
        return replace(self, windows=tuple(window for window in self.windows if window.event in known))

    def shard(self, rank: int, ranks: int, mode: ShardMode = "floor") -> Part:
        """The windows of the events of `rank` (see `shard`), in their order."""
        events = self.events
        return self.within([events[k] for k in shard(len(events), rank, ranks, mode)])


@dataclass(frozen=True, slots=True)
class Split:
    """Windows by part: `train`, `val`, `test`."""

    name: str
    parts: Mapping[str, Part]

    @property
    def sha256(self) -> str:
        """Hash of the parts; the name does not count."""
        lines = [f"{name} {part.sha256}" for name, part in sorted(self.parts.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def part(self, name: str) -> Part:
        if name not in self.parts:
            raise UserError(f"expected a part out of {', '.join(self.parts)} of the split {self.name}, got {name!r}")
        return self.parts[name]


def write_split(path: str | Path, split: Split) -> None:
    """Write `split` as JSON; the file appears whole or not at all.

    Of each part: `raw_frames`, `frames`, `count`, `sha256` and `windows`, a list of [event id, first frame].
    """
    parts = {
        name: {
            "raw_frames": part.raw_frames,
            "frames": part.frames,
            "count": len(part),
            "sha256": part.sha256,
            "windows": part.windows,
        }
        for name, part in split.parts.items()
    }
    content = {"format": FORMAT, "version": VERSION, "name": split.name, "sha256": split.sha256, "parts": parts}
    text = json.dumps(content) + "\n"
    write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_split(path: str | Path) -> Split:
    """The split in a file of `write_split`.

    Raises:
        UserError: no such file, no split, another version, or windows that do not have the hash they are said to have.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"expected a split at {path}, got none ({error.strerror}): see data_tools.splits") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected a split as JSON, got {path}, which is none: see data_tools.splits") from error
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise UserError(f"expected a {FORMAT} of version {VERSION}, got other JSON in {path}: see data_tools.splits")
    try:
        split = Split(_text(content["name"]), {name: _part(part) for name, part in content["parts"].items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"expected a whole {FORMAT}, got a damaged one in {path}: write it again") from error
    wrong = [name for name, part in split.parts.items() if part.sha256 != content["parts"][name].get("sha256")]
    if wrong or split.sha256 != content.get("sha256"):
        raise UserError(
            f"expected windows of the hashes that {path} says, got others in {', '.join(wrong) or 'its parts'}: "
            "it was changed by hand or damaged; write it again with data_tools.splits"
        )
    return split


def _part(content: dict[str, Any]) -> Part:
    windows = tuple(Window(_text(event), _count(start)) for event, start in content["windows"])
    return Part(_count(content["raw_frames"]), _count(content["frames"]), windows)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected text, got {value!r}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected a whole number from 0, got {value!r}")
    return value
