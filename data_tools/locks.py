"""Locks that keep two commands from writing into one folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_tools.cli import UserError


@contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock of the file at `path`, which is made; nothing is held where the file system has no locks.

    Raises:
        UserError: `refusal`, where another process holds it, or removed it with its folder when it had finished.
    """
    with path.open("w") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(refusal) from error
            except OSError:  # a network file system without locks
                pass
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise UserError(refusal)
        yield
