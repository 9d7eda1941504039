"""The manifest: written and read, and refused where it was touched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_tools.cli import UserError
from data_tools.conversion.manifest import Checksum, Manifest, Record, read_manifest, write_manifest

MANIFEST = Manifest("abc", (Record(0, 3, "aa"), Record(3, 2, "bb")))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "manifest.json"
    assert read_manifest(path, 5) is None
    write_manifest(path, MANIFEST)
    assert read_manifest(path, 5) == MANIFEST
    assert [entry.name for entry in path.parent.iterdir()] == ["manifest.json"]
    with pytest.raises(UserError, match="expected a manifest of 6 events"):
        read_manifest(path, 6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"sha256": 1}',
        "[" * 100_000,
        '{"format": "spanlift-manifest", "version": 2, "sha256": ""}',
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UserError, match="got a damaged one") as caught:
        read_manifest(tmp_path / "m.json", 5)
    assert "\n" not in str(caught.value)


def test_every_edit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_manifest(path, MANIFEST)
    content = json.loads(path.read_text())
    for name in content:
        edited = json.loads(path.read_text())
        edited[name] = "other"
        (tmp_path / "edited.json").write_text(json.dumps(edited))
        with pytest.raises(UserError, match="got a damaged one"):
            read_manifest(tmp_path / "edited.json", 5)
    write_manifest(path, Manifest("abc", (Record(0, 3, "aa"), Record(4, 1, "bb"))))
    with pytest.raises(UserError, match="got one of others"):
        read_manifest(path, 5)


def checksum(*events: tuple[str, np.ndarray]) -> str:
    made = Checksum()
    for name, codes in events:
        made.add(name, codes)
    return made.hexdigest()


def test_a_checksum_is_of_ids_values_and_their_order() -> None:
    codes = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    first, second = ("S1", codes), ("R2", codes + 1)
    known = checksum(first, second)
    assert known == checksum(("S1", np.asfortranarray(codes)), second)
    others = [(second, first), (first,), (("S2", codes), second), (("S1", codes.swapaxes(0, 1)), second)]
    assert len({known, *(checksum(*other) for other in others)}) == 5
    assert checksum(("a", np.uint8([0, 98]))) != checksum(("a\0", np.uint8([98])), ("", np.uint8([])))
