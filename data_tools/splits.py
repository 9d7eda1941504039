"""Named splits of SEVIR into training, validation and test windows, as lists that can be kept, compared and hashed.

prediff      PreDiff (Gao et al. 2023): test after 2019-06-01; of the windows before, in shuffled order, a random tenth
             is for validation. Windows of one event overlap and fall on both sides.
earthformer  Earthformer (Gao et al. 2022), CasCast: train to 2019-01-01, validation to 2019-06-01, test after.
challenge    SEVIR's own nowcasting task (Veillette et al. 2020): test after 2019-06-01, validation the last fifth of
             the windows before, in whole batches of 8 events.
event-clean  ours: PreDiff's test; validation on a tenth of the days before, drawn by a hash of the date. No event of
             one part shares a moment with an event of another: training and validation events that would are left out.

All take what the published loaders take (`data_tools.catalog.select`): nothing missing, no doubled ids, in the order of
the ids as text. A bound belongs to the part before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import random_split

from data_tools.catalog import Entry, read_catalog, select
from data_tools.cli import UserError, check_outputs, run
from data_tools.sevir import TRAIN_UNTIL, VAL_UNTIL
from data_tools.split_files import Part, Split, Window, write_split

CUTS = {25: (13, 6), 49: (25, 12)}
"""(frames, stride) of the windows of SEVIR-LR's events of 25 frames and of SEVIR's of 49: three windows each."""

EVENT_SPAN = np.timedelta64(240, "m")
"""From the first to the last frame of an event."""

_BATCH = 8  # of events in the challenge's files


def cut_events(ids: Iterable[str], raw_frames: int) -> list[Window]:
    """The windows of events, event by event: 1 + (raw_frames - frames) // stride of each."""
    frames, stride = CUTS[raw_frames]
    return [Window(name, start) for name in ids for start in range(0, raw_frames - frames + 1, stride)]


def shuffle_twice(items: Sequence, seed: int = 1) -> list:
    """The order of the published loaders' shuffled tables: one permutation, applied when the table is made and again.

    It is that of `DataFrame.sample(frac=1, random_state=seed)`.
    """
    order = np.random.RandomState(seed).permutation(len(items))  # numpy's newer generators have another order
    return [items[k] for k in order[order]]


def named_split(name: str, entries: Iterable[Entry], raw_frames: int | None = None) -> Split:
    """The split called `name` of a catalogue.

    Args:
        name: one of `SPLITTERS`.
        entries: all rows of the catalogue.
        raw_frames: frames of an event, 25 (SEVIR-LR) or 49 (SEVIR); by default those of the publication, and 25 for
            event-clean.

    Raises:
        UserError: no such split or no such events.
    """
    if name not in SPLITTERS:
        raise UserError(f"expected a split out of {', '.join(SPLITTERS)}, got {name!r}: choose one of them")
    splitter, published = SPLITTERS[name]
    raw_frames = published if raw_frames is None else raw_frames
    if raw_frames not in CUTS:
        raise UserError(f"expected events of 25 (SEVIR-LR) or 49 frames (SEVIR), got {raw_frames}: choose one of them")
    parts = splitter(list(entries), raw_frames)
    if not all(parts.values()):
        empty = ", ".join(part for part, windows in parts.items() if not windows)
        raise UserError(f"expected events for each part of {name}, got none for {empty}: use the whole CATALOG.csv")
    frames = CUTS[raw_frames][0]
    return Split(name, {part: Part(raw_frames, frames, tuple(windows)) for part, windows in parts.items()})


def _prediff(entries: list[Entry], raw_frames: int) -> dict[str, list[Window]]:
    windows = cut_events(shuffle_twice(_ids(select(entries, until=VAL_UNTIL))), raw_frames)
    test = cut_events(_ids(select(entries, after=VAL_UNTIL)), raw_frames)
    if len(windows) < 10:  # random_split would warn of the part that is refused later
        return {"train": windows, "val": [], "test": test}
    train, val = random_split(windows, [0.9, 0.1], torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    return {"train": [windows[k] for k in train.indices], "val": [windows[k] for k in val.indices], "test": test}


def _earthformer(entries: list[Entry], raw_frames: int) -> dict[str, list[Window]]:
    return {
        "train": cut_events(shuffle_twice(_ids(select(entries, until=TRAIN_UNTIL))), raw_frames),
        "val": cut_events(_ids(select(entries, after=TRAIN_UNTIL, until=VAL_UNTIL)), raw_frames),
        "test": cut_events(_ids(select(entries, after=VAL_UNTIL)), raw_frames),
    }


def _challenge(entries: list[Entry], raw_frames: int) -> dict[str, list[Window]]:
    before = _in_batches(_ids(select(entries, until=VAL_UNTIL)), raw_frames)
    last = int((1 - 0.2) * len(before))  # as published: rounded where the product rounds
    test = _in_batches(_ids(select(entries, after=VAL_UNTIL)), raw_frames)
    return {"train": before[:last], "val": before[last:], "test": test}


def _in_batches(ids: list[str], raw_frames: int) -> list[Window]:
    """Batches of 8 events, the first windows of all 8 before their second; events that fill no batch are left out."""
    whole = len(ids) // _BATCH * _BATCH
    batches = [ids[first : first + _BATCH] for first in range(0, whole, _BATCH)]
    return [window for batch in batches for window in sorted(cut_events(batch, raw_frames), key=lambda w: w.start)]


def _event_clean(entries: list[Entry], raw_frames: int) -> dict[str, list[Window]]:
    chosen = select(entries)  # an id doubled across the dates is dropped, too
    test = [entry for entry in chosen if entry.time > VAL_UNTIL]
    before = [entry for entry in chosen if entry.time <= VAL_UNTIL]
    val = _clear_of(test, [entry for entry in before if _validates(entry.time)])
    train = _clear_of(test + val, [entry for entry in before if not _validates(entry.time)])
    parts = {"train": train, "val": val, "test": test}
    return {name: cut_events(_ids(part), raw_frames) for name, part in parts.items()}


def _validates(time: np.datetime64) -> bool:
    """Whether the day of `time`, UTC, is one of the tenth for validation: the same for every catalogue."""
    digest = hashlib.sha256(f"event-clean {time.astype('datetime64[D]')}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < 0.1


def _clear_of(others: list[Entry], entries: list[Entry]) -> list[Entry]:
    """Those of `entries` that share no moment with any of `others`: their middles are more than an event apart."""
    if not entries:
        return []
    theirs = np.sort(np.array([other.time for other in others], dtype="datetime64[s]"))
    times = np.array([entry.time for entry in entries])
    begin = np.searchsorted(theirs, times - EVENT_SPAN, "left")
    end = np.searchsorted(theirs, times + EVENT_SPAN, "right")
    return [entry for entry, clear in zip(entries, begin == end, strict=True) if clear]


def _ids(entries: Iterable[Entry]) -> list[str]:
    return [entry.id for entry in entries]


Splitter = Callable[[list[Entry], int], dict[str, list[Window]]]

SPLITTERS: dict[str, tuple[Splitter, int]] = {
    "prediff": (_prediff, 25),
    "earthformer": (_earthformer, 49),
    "challenge": (_challenge, 49),
    "event-clean": (_event_clean, 25),
}
"""How each named split is made, and the frames of an event in its publication."""


@dataclass(frozen=True)
class Options:
    """Options of `data_tools.splits`.

    Attributes:
        catalog: SEVIR's CATALOG.csv.
        name: prediff, earthformer, challenge or event-clean.
        out: JSON file to write.
        frames: frames of an event: 25 for SEVIR-LR, 49 for SEVIR; by default what the split was published for.
        overwrite: replace the file.
    """

    catalog: str
    name: Literal["prediff", "earthformer", "challenge", "event-clean"]
    out: Path
    frames: int | None = None
    overwrite: bool = False


def main(options: Options) -> None:
    check_outputs([options.out], options.overwrite)
    split = named_split(options.name, read_catalog(options.catalog), options.frames)
    write_split(options.out, split)
    counts = ", ".join(f"{len(part)} {name}" for name, part in split.parts.items())
    print(f"{options.out}: {split.name}, {counts} windows, sha256 {split.sha256}")


if __name__ == "__main__":
    run(
        Options,
        main,
        prog="python -m data_tools.splits",
        description="Write the windows of a named split of SEVIR as JSON: who trains and who tests on what.",
        examples="""examples:
  python -m data_tools.splits sevirlr/CATALOG.csv --name prediff --out prediff.json
  python -m data_tools.splits sevir/CATALOG.csv --name event-clean --frames 49 --out clean.json""",
        positional=[("catalog", "SEVIR's CATALOG.csv")],
    )
