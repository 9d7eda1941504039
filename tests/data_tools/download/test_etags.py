"""Checksums of objects stored in one piece and in parts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools import etags
from data_tools.etags import part_sizes, verify
from data_tools.s3 import RemoteObject

MIB = 1 << 20


def etag_of(data: bytes, part: int) -> str:
    """By the definition, one part after another."""
    digests = [hashlib.md5(data[start : start + part]).digest() for start in range(0, len(data), part)]
    return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, bytes]:
    data = np.random.default_rng(3).bytes(17 * MIB + 5)
    path = tmp_path / "file"
    path.write_bytes(data)
    return path, data


def test_one_piece(stored: tuple[Path, bytes]) -> None:
    path, data = stored
    item = RemoteObject("k", len(data), hashlib.md5(data).hexdigest())
    counts: list[int] = []
    assert verify(path, item, counts.append) == "md5"
    assert sum(counts) == len(data)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert verify(path, item) is None
    path.write_bytes(data[:-1])
    assert verify(path, item) is None


@pytest.mark.parametrize("part", [5 * MIB, 8 * MIB, 16 * MIB, 8_000_000, 6 * MIB, 18 * MIB])
def test_parts(stored: tuple[Path, bytes], part: int) -> None:
    path, data = stored
    etag = etag_of(data, part)
    parts = etag.split("-")[1]
    found = verify(path, RemoteObject("k", len(data), etag))
    shown = len(data) if part > len(data) else part
    assert found == f"md5 of {parts} parts of {shown} bytes"
    path.write_bytes(data[:MIB] + b"?" + data[MIB + 1 :])
    assert verify(path, RemoteObject("k", len(data), etag)) == "size"  # a guess that fails proves nothing


def test_parts_that_end_with_the_file(tmp_path: Path) -> None:
    data = bytes(10 * MIB)
    (tmp_path / "file").write_bytes(data)
    item = RemoteObject("k", len(data), etag_of(data, 5 * MIB))
    assert verify(tmp_path / "file", item) == f"md5 of 2 parts of {5 * MIB} bytes"


@pytest.mark.parametrize("etag", ["", "not-a-digest", "0" * 32 + "-0", "0" * 32 + "-99999"])
def test_no_checksum_leaves_the_size(stored: tuple[Path, bytes], etag: str) -> None:
    path, data = stored
    assert verify(path, RemoteObject("k", len(data), etag)) == "size"
    assert verify(path, RemoteObject("k", len(data) + 1, etag)) is None


def test_encryption_with_a_key_makes_the_etag_opaque(stored: tuple[Path, bytes]) -> None:
    path, data = stored
    assert verify(path, RemoteObject("k", len(data), "0" * 32, opaque=True)) == "size"
    assert verify(path, RemoteObject("k", len(data), "0" * 32)) is None


@given(st.integers(1, 10**12), st.integers(1, 10_000))
def test_every_part_size_gives_that_many_parts(size: int, parts: int) -> None:
    for part in part_sizes(size, parts):
        assert (parts - 1) * part < size <= parts * part


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.lists(st.integers(1, 90), min_size=1, max_size=4))
def test_reading_in_pieces_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, sizes: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(etags, "_READ", 37)
        found = etags._etags(path, sizes, lambda count: None)[1:]
    assert found == [etag_of(data, size).split("-")[0] for size in sizes]
