"""Downloading objects into a folder so that nothing is fetched twice and nothing half-fetched is taken for whole.

A file grows as `NAME.part` beside `NAME.part.json`, which says of what object it is a part: a download that was killed
goes on at its last byte, and starts anew where the object was replaced. Whole and verified it takes its name.
`.download.json` in the folder remembers what was verified and how.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.fitting import write_atomically
from data_tools.cli import UserError, progress_bar
from data_tools.etags import verify
from data_tools.locks import locked
from data_tools.s3 import Bucket, ChangedError, NotThereError, RemoteObject

BLOCK = 8 << 20
"""Bytes of one request, and the most that a broken one loses."""

Advance = Callable[[int], None]
"""Told of bytes that arrived, or, negative, of such as have to be fetched again."""


@dataclass(frozen=True)
class Ledger:
    """What is known of the files in a folder: name -> size, ETag and how the file was verified."""

    folder: Path
    entries: dict[str, dict[str, Any]]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def read(cls, folder: Path) -> Ledger:
        """The ledger of `folder`; an empty one where there is none or it is damaged: then all is verified again."""
        try:
            content = json.loads((folder / ".download.json").read_text())
        except (OSError, ValueError):
            content = {}
        entries = content if isinstance(content, dict) else {}
        return cls(folder, {name: entry for name, entry in entries.items() if isinstance(entry, dict)})

    def holds(self, name: str, item: RemoteObject) -> bool:
        """Whether the file `name` is there and was verified to be `item`."""
        entry, path = self.entries.get(name, {}), self.folder / name
        known = entry.get("size") == item.size and entry.get("etag") == item.etag
        return known and path.is_file() and path.stat().st_size == item.size

    def record(self, name: str, item: RemoteObject, check: str, **more: Any) -> None:
        with self._lock:
            self.entries[name] = {"size": item.size, "etag": item.etag, "verified": check, **more}
            text = json.dumps(self.entries, indent=1, sort_keys=True) + "\n"
            write_atomically(self.folder / ".download.json", lambda path: path.write_text(text))


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second download out of `folder`, or raise `UserError` where one is at work."""
    folder.mkdir(parents=True, exist_ok=True)
    refusal = f"expected {folder} for this download alone, got another at work in it: wait for it"
    with locked(folder / ".download.lock", refusal):
        yield


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _identity(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def fetched(path: Path, item: RemoteObject) -> int:
    """How many bytes of `item` an earlier download towards `path` has left that can be gone on from."""
    try:
        identity = json.loads(_identity(path).read_text())
        size = _part(path).stat().st_size
    except (OSError, ValueError):
        return 0
    return size if identity == {"size": item.size, "etag": item.etag} and size <= item.size else 0


def discard(path: Path) -> None:
    """Forget what an earlier download towards `path` has left."""
    _part(path).unlink(missing_ok=True)
    _identity(path).unlink(missing_ok=True)


def fetch(
    bucket: Bucket,
    item: RemoteObject,
    path: Path,
    *,
    advance: Advance = lambda count: None,
    examine: Callable[[Path], None] = lambda path: None,
    block: int = BLOCK,
) -> tuple[RemoteObject, str]:
    """Download `item` to `path`, replacing what is there; the object in the end, and how it was verified.

    An object that is replaced meanwhile is begun anew. `examine` looks at the whole file before it takes its name and
    raises `UserError` at one that is no good; the file is then fetched once more.

    Raises:
        UserError: the server fails for good, the object keeps changing, or its content does not fit its checksum or
            `examine` even the second time.
    """
    failure = UserError(f"expected {bucket.url(item.key)} to stay as it is, got a new one time and again: try later")
    damaged = 0
    for _ in range(4):
        try:
            _fill(bucket, item, path, advance, block)
        except ChangedError:
            advance(-fetched(path, item))
            item = bucket.describe(item.key)
            continue
        check = verify(_part(path), item)
        try:
            if check is None:
                raise UserError(
                    f"expected {bucket.url(item.key)} with checksum {item.etag}, got other content: try again"
                )
            examine(_part(path))
        except UserError as error:
            failure, damaged = error, damaged + 1
            discard(path)
            advance(-item.size)
            if damaged == 2:
                break
            continue
        os.replace(_part(path), path)
        _identity(path).unlink(missing_ok=True)
        return item, check or ""
    raise failure


def _fill(bucket: Bucket, item: RemoteObject, path: Path, advance: Advance, block: int) -> None:
    """Lengthen the part until it is whole. The identity stands before the first byte does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    position = fetched(path, item)
    if position == 0:
        discard(path)
        identity = json.dumps({"size": item.size, "etag": item.etag})
        write_atomically(_identity(path), lambda temporary: temporary.write_text(identity))
    with _part(path).open("ab") as file:
        while position < item.size:
            data = bucket.read(item, position, min(position + block, item.size))
            file.write(data)
            file.flush()
            position += len(data)
            advance(len(data))
        os.fsync(file.fileno())


def do_all(work: Sequence[Callable[[], None]], stop: threading.Event, workers: int) -> None:
    """Do all of `work` on `workers` threads; the first failure sets `stop`, which ends the others, and is raised."""
    with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="download") as pool:
        futures = [pool.submit(job) for job in work]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # also Ctrl-C
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        errors = [error for future in done if not future.cancelled() and (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, InterruptedError)):
        raise error


def require_space(folder: Path, count: int) -> None:
    """Raise `UserError` unless the disk of `folder` has `count` bytes free."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < count:
        raise UserError(
            f"expected {in_words(count)} free at {place}, got {in_words(free)}: free some or choose another --dest"
        )


def in_words(count: float) -> str:
    """Bytes as people read them, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000.0:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000.0
    return f"{count:.2f} TB"


@contextmanager
def byte_bar(title: str, total: int, done: int) -> Iterator[Advance]:
    """A progress bar in MB with the rate over the last ten seconds."""
    lock, recent = threading.Lock(), deque([(time.monotonic(), 0)])
    with progress_bar() as bar:
        task = bar.add_task(title, total=round(total / 1e6, 1), note="")
        bar.update(task, completed=done / 1e6)

        def advance(count: int) -> None:
            with lock:
                now = time.monotonic()
                recent.append((now, recent[-1][1] + count))
                while len(recent) > 2 and now - recent[0][0] > 10.0:
                    recent.popleft()
                (before, first), (_, last) = recent[0], recent[-1]
                rate = (last - first) / max(now - before, 1e-3)
            bar.update(task, advance=count / 1e6, note=f"{in_words(max(rate, 0.0))}/s")

        yield advance


def describe_all(bucket: Bucket, keys: Sequence[str], workers: int) -> dict[str, RemoteObject | UserError]:
    """Each object, or why there is none.

    Raises:
        UserError: the server cannot be reached.
    """

    def describe(key: str) -> RemoteObject | UserError:
        try:
            return bucket.describe(key)
        except NotThereError as error:
            return error

    with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="describe") as pool:
        try:
            return dict(zip(keys, pool.map(describe, keys), strict=True))
        except BaseException:  # also Ctrl-C: the others shall not wait their patience out
            bucket.stop.set()
            raise
