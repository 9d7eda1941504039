"""Damaged archives of torch: what is wrong with them is told, and their size is not believed."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoints import read_foreign_pickle


def archive(path: Path, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> Path:
    """A torch archive whose entries have been changed."""
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(6.0), "b": torch.ones(2)}, buffer)
    with zipfile.ZipFile(buffer) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, content in entries.items():
            target.writestr(name, content)
    return path


def replace_entry(ending: str, content: bytes | None) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        name = next(name for name in entries if name.endswith(ending))
        if content is None:
            del entries[name]
        else:
            entries[name] = content

    return change


@pytest.mark.parametrize(
    ("change", "compression", "words"),
    [
        (lambda entries: None, zipfile.ZIP_DEFLATED, "compressed storages"),
        (replace_entry("data/0", None), zipfile.ZIP_STORED, "truncated or foreign"),
        (replace_entry("data/0", b"abcd"), zipfile.ZIP_STORED, "truncated or foreign"),
        (replace_entry("data.pkl", None), zipfile.ZIP_STORED, "truncated or foreign"),
        (replace_entry("byteorder", b"big"), zipfile.ZIP_STORED, "byte order"),
        (replace_entry("data.pkl", b"cos\nsystem\n."), zipfile.ZIP_STORED, r"os\.system"),
        (replace_entry("data.pkl", b"ctorch\nFloatStorage\nQ."), zipfile.ZIP_STORED, "truncated"),
        (
            replace_entry("data.pkl", b"(S'storage'\nctorch\nSize\nNNK\x01tQ."),
            zipfile.ZIP_STORED,
            r"no storage: torch\.Size",
        ),
    ],
)
def test_damaged_archives(tmp_path: Path, change: Any, compression: int, words: str) -> None:
    assert torch.equal(read_foreign_pickle(archive(tmp_path / "whole", lambda entries: None))["b"], torch.ones(2))
    with pytest.raises(ValueError, match=words):
        read_foreign_pickle(archive(tmp_path / "changed", change, compression))


def test_an_archive_that_counts_its_bytes_twice(tmp_path: Path) -> None:
    """Many entries of a directory that point to the same data."""
    path = archive(tmp_path / "a", lambda entries: entries.update({"archive/data/big": b"\0" * 50_000}))
    content = bytearray(path.read_bytes())
    start, count = content.rindex(b"PK\x01\x02"), 400
    end = content.rindex(b"PK\x05\x06")
    record = bytes(content[start:end])
    extra = record * count
    entries, size = struct.unpack_from("<HHI", content, end + 8)[1:3]
    tail = bytearray(content[end:])
    struct.pack_into("<HHI", tail, 8, entries + count, entries + count, size + len(extra))
    path.write_bytes(content[:end] + extra + tail)
    with pytest.raises(ValueError, match="more memory than"):
        read_foreign_pickle(path)
