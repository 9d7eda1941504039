"""Fetching one object over a line that drops, truncates, throttles and stalls, from one that changes, and again."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import numpy as np
import pytest

from data_tools import transfer
from data_tools.cli import UserError
from data_tools.s3 import Bucket, ChangedError, NotThereError, Patience, RemoteObject
from data_tools.transfer import Ledger, alone_in, discard, do_all, fetch, fetched, in_words, require_space

BLOCK = 1000
CONTENT = np.random.default_rng(5).bytes(3456)
SPANS = ["bytes=0-999", "bytes=1000-1999", "bytes=2000-2999", "bytes=3000-3455"]


@pytest.fixture
def bucket(server) -> Bucket:
    server.put("sevir", "data/a.bin", CONTENT)
    return Bucket("sevir", server.url, patience=Patience(attempts=4, first=0.01))


def get(bucket: Bucket, path: Path, **more) -> tuple[RemoteObject, str]:
    return fetch(bucket, bucket.describe("data/a.bin"), path, block=BLOCK, **more)


def test_a_file_comes_in_blocks_and_is_checked(server, bucket: Bucket, tmp_path: Path) -> None:
    counts: list[int] = []
    item, check = get(bucket, tmp_path / "deep" / "a.bin", advance=counts.append)
    assert (tmp_path / "deep" / "a.bin").read_bytes() == CONTENT
    assert (item.size, check) == (3456, "md5")
    assert counts == [1000, 1000, 1000, 456]
    assert server.ranges("a.bin") == SPANS
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.bin"]


@pytest.mark.parametrize("fault", ["drop", "truncate", "slow"])
def test_a_bad_line_is_waited_out(server, bucket: Bucket, tmp_path: Path, fault: str) -> None:
    server.faults = ["", fault, fault, fault, "", fault]
    get(bucket, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.ranges("a.bin") == [SPANS[0], *[SPANS[1]] * 4, *[SPANS[2]] * 2, SPANS[3]]


def test_a_line_that_stays_bad_is_told_and_gone_on_from(server, bucket: Bucket, tmp_path: Path) -> None:
    server.faults = ["", "", *["slow"] * 4]
    with pytest.raises(UserError, match=r"within 4 attempts, got .*SlowDown|reduce your request rate"):
        get(bucket, tmp_path / "a.bin")
    item = bucket.describe("data/a.bin")
    assert not (tmp_path / "a.bin").exists()
    assert fetched(tmp_path / "a.bin", item) == 2000
    server.log.clear()
    get(bucket, tmp_path / "a.bin")
    assert server.ranges("a.bin") == SPANS[2:]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_of_another_object_is_not_gone_on_from(server, bucket: Bucket, tmp_path: Path) -> None:
    server.faults = ["", "", *["slow"] * 4]
    with pytest.raises(UserError):
        get(bucket, tmp_path / "a.bin")
    other = CONTENT[::-1]
    server.put("sevir", "data/a.bin", other)
    get(bucket, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == other


def test_an_object_that_changes_meanwhile_is_begun_anew(server, bucket: Bucket, tmp_path: Path) -> None:
    other = CONTENT[::-1] + b"longer"
    server.faults = ["", "", lambda: server.put("sevir", "data/a.bin", other)]
    counts: list[int] = []
    item, _ = get(bucket, tmp_path / "a.bin", advance=counts.append)
    assert (tmp_path / "a.bin").read_bytes() == other
    assert item.size == len(other) == sum(counts)


def test_a_block_of_a_changed_object_is_refused(server, bucket: Bucket) -> None:
    item = bucket.describe("data/a.bin")
    server.put("sevir", "data/a.bin", CONTENT[::-1])
    with pytest.raises(ChangedError):
        bucket.read(item, 0, 10)


def test_a_damaged_part_is_fetched_once_more(server, bucket: Bucket, tmp_path: Path) -> None:
    server.faults = ["", "", "", *["slow"] * 4]
    with pytest.raises(UserError):
        get(bucket, tmp_path / "a.bin")
    part = tmp_path / "a.bin.part"
    part.write_bytes(b"\0" * 3000)  # what a power cut makes of it
    get(bucket, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_content_that_is_never_right_is_refused_and_nothing_stays(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"former")
    looks = 0

    def examine(path: Path) -> None:
        nonlocal looks
        looks += 1
        raise UserError("it is no good")

    with pytest.raises(UserError, match="it is no good"):
        get(bucket, tmp_path / "a.bin", examine=examine)
    assert looks == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.bin": b"former"}


def test_an_empty_object_is_a_file(server, bucket: Bucket, tmp_path: Path) -> None:
    item = bucket.describe("data/a.bin")
    empty = RemoteObject("data/none", 0, "d41d8cd98f00b204e9800998ecf8427e")
    fetch(bucket, empty, tmp_path / "none")
    assert (tmp_path / "none").read_bytes() == b""
    assert item.size == 3456


def test_what_waiting_does_not_mend_is_told_at_once(server, bucket: Bucket) -> None:
    with pytest.raises(NotThereError, match=r"got 40[34] from the server"):
        bucket.describe("data/other.bin")
    with pytest.raises(NotThereError, match=r"got 40[34] from the server"):
        Bucket("elsewhere", server.url).describe("data/a.bin")
    with pytest.raises(UserError, match="--endpoint as a URL"):
        Bucket("sevir", "127.0.0.1:1")
    lost = Bucket("sevir", "http://127.0.0.1:9", patience=Patience(attempts=2, first=0.01))
    with pytest.raises(UserError, match="within 2 attempts"):
        lost.describe("data/a.bin")


def test_waits_double_up_to_a_limit() -> None:
    patience = Patience(first=1.0, most=10.0)
    for failures, longest in ((1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (50, 10.0)):
        waits = [patience.wait(failures) for _ in range(50)]
        assert longest / 2 <= min(waits) <= max(waits) <= longest


def test_a_full_disk_keeps_what_is_there(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def full(count: int) -> None:
        calls.append(count)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        get(bucket, tmp_path / "a.bin", advance=full)
    assert fetched(tmp_path / "a.bin", bucket.describe("data/a.bin")) == 2000
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match=r"expected 11 B free at .*, got 10 B"):
        require_space(tmp_path / "not" / "there", 11)
    require_space(tmp_path, 10)


def test_the_ledger_knows_what_was_verified(tmp_path: Path) -> None:
    item, other = RemoteObject("k", 3, "aa"), RemoteObject("k", 3, "bb")
    ledger = Ledger.read(tmp_path)
    assert not ledger.holds("k", item)
    ledger.record("k", item, "md5")
    assert not ledger.holds("k", item)  # no file
    (tmp_path / "k").write_bytes(b"abc")
    assert Ledger.read(tmp_path).holds("k", item)
    assert not Ledger.read(tmp_path).holds("k", other)
    (tmp_path / "k").write_bytes(b"abcd")
    assert not Ledger.read(tmp_path).holds("k", item)
    (tmp_path / ".download.json").write_text('{"k": 3')
    assert Ledger.read(tmp_path).entries == {}


def test_parts_that_cannot_be_trusted_count_nothing(tmp_path: Path) -> None:
    item, path = RemoteObject("k", 3, "aa"), tmp_path / "k"
    part, identity = tmp_path / "k.part", tmp_path / "k.part.json"
    part.write_bytes(b"ab")
    assert fetched(path, item) == 0
    identity.write_text("[")
    assert fetched(path, item) == 0
    identity.write_text('{"size": 3, "etag": "aa"}')
    assert fetched(path, item) == 2
    part.write_bytes(b"abcd")
    assert fetched(path, item) == 0
    discard(path)
    assert list(tmp_path.iterdir()) == []


def test_one_failure_ends_the_others(tmp_path: Path) -> None:
    stop = threading.Event()
    seen: list[str] = []

    def wait() -> None:
        assert stop.wait(20)
        seen.append("stopped")
        raise InterruptedError("stopped")

    def fail() -> None:
        raise UserError("the cause")

    with pytest.raises(UserError, match="the cause"):
        do_all([wait, fail], stop, 2)
    assert seen == ["stopped"]


def test_two_downloads_do_not_share_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with alone_in(tmp_path / "x"), pytest.raises(UserError, match="another at work"), alone_in(tmp_path / "x"):
        pass
    with alone_in(tmp_path / "x"):
        pass


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1e3, "1.0 kB"), (25_500_000, "25.5 MB"), (3e15, "3000.00 TB")]
)
def test_bytes_in_words(count: float, words: str) -> None:
    assert in_words(count) == words


def test_a_failure_ends_the_waits_of_the_others() -> None:
    """An unreachable server, or Ctrl-C, while the other descriptions wait for their next attempt."""
    stop = threading.Event()

    class Waiting:
        def __init__(self) -> None:
            self.stop = stop

        def describe(self, key: str) -> RemoteObject:
            if key == "first":
                raise UserError("the cause")
            assert stop.wait(20)
            raise InterruptedError("stopped")

    with pytest.raises(UserError, match="the cause"):
        transfer.describe_all(Waiting(), ["first", "second"], 2)  # type: ignore[arg-type]
    assert stop.is_set()
