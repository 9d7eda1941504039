"""Parts and files of splits that are made by hand, small, or stopped while they are written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_tools.catalog import Entry
from data_tools.cli import UserError
from data_tools.split_files import Part, Split, Window, read_split, write_split
from data_tools.splits import named_split


@pytest.mark.parametrize(("frames", "start"), [(13, 13), (13, -1), (26, 0), (0, 3)])
def test_windows_lie_inside_their_events(frames: int, start: int) -> None:
    """A slice that leads out would be a shorter sample, which shows only where a batch is made of it."""
    with pytest.raises(ValueError, match="expected windows inside events of 25 frames"):
        Part(25, frames, (Window("S1", 3), Window("S2", start)))
    assert len(Part(25, 13, (Window("S1", 0), Window("S2", 12)))) == 2


def test_a_file_with_windows_outside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    write_split(path, Split("own", {"train": Part(25, 13, (Window("S1", 12),))}))
    content = json.loads(path.read_text())
    content["parts"]["train"]["raw_frames"] = 24
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="expected a whole spanlift split, got a damaged one"):
        read_split(path)


def test_a_write_that_fails_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "split.json"
    former = Split("own", {"train": Part(25, 13, (Window("S1", 12),))})
    write_split(path, former)

    def half(self: Path, text: str, **_: object) -> int:
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        write_split(path, Split("other", former.parts))
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["split.json"]
    assert read_split(path) == former


@pytest.mark.parametrize("events", [1, 3, 4])
def test_of_few_events_there_is_no_tenth(events: int) -> None:
    """9 windows have none, and PyTorch does not warn of it; 12 have one."""
    times = [*(f"2018-07-{day + 1:02d}" for day in range(events)), "2019-07-01"]
    entries = [
        Entry(f"S{number}", "a.h5", number, "vil", np.datetime64(time, "s"), 0.0) for number, time in enumerate(times)
    ]
    if events == 4:
        split = named_split("prediff", entries)
        assert [len(split.part(name)) for name in ("train", "val", "test")] == [11, 1, 3]
        return
    with pytest.raises(UserError, match="expected events for each part of prediff, got none for val:"):
        named_split("prediff", entries)
