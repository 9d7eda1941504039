"""Writers of one store that are killed, or that work at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE
from data_tools.store import Event, EventStore, write_store

ROOT = Path(__file__).resolve().parents[2]
TIMES = np.datetime64("2019-12-31T23:55:00", "s") + np.arange(2) * np.timedelta64(300, "s")
WHOLE = Event("whole", TIMES, np.ones((2, 3, 4), np.float32), "train", "s", 0.0, 0.0)


def write_one(out: Path, events: Iterator[Event] | None = None, overwrite: bool = False) -> None:
    attrs = {"source": "made up", "licence": "none"}
    chosen = [WHOLE] if events is None else events
    write_store(out, chosen, quantity=RAINFALL_RATE, time_step_seconds=300.0, crs={}, attrs=attrs, overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_took_the_place_meanwhile_stays(tmp_path: Path, overwrite: bool) -> None:
    """With `overwrite`, too, where it is no store."""
    out = tmp_path / "a.zarr"

    def events() -> Iterator[Event]:
        yield WHOLE
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")

    with pytest.raises(UserError, match=r"a\.zarr"):
        write_one(out, events(), overwrite)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zarr", "thesis.txt"]


_ENDLESS = """
import sys
from pathlib import Path
import numpy as np
from data_tools.quantities import RAINFALL_RATE
from data_tools.store import Event, write_store

def events():
    times = np.datetime64("2020-01-01", "s") + np.arange(2) * np.timedelta64(300, "s")
    yield Event("one", times, np.ones((2, 4, 4), np.float32), "train", "s", 0.0, 0.0)
    yield Event("two", times, np.ones((2, 4, 4), np.float32), "train", "s", 0.0, 0.0)
    print("writing", flush=True)
    sys.stdin.read()

write_store(Path(sys.argv[1]), events(), quantity=RAINFALL_RATE, time_step_seconds=300.0, crs={},
            attrs={"source": "s", "licence": "none"})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell whether a process lives")
def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    out = tmp_path / "a.zarr"

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _ENDLESS, str(out)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        return process

    with start() as killed, start() as living:
        killed.kill()
        killed.wait()
        stale, busy = (tmp_path / f".a.zarr.partial-{process.pid}" for process in (killed, living))
        others = [tmp_path / f".b.zarr.partial-{killed.pid}", tmp_path / ".a.zarr.partial-x"]
        former = tmp_path / f".a.zarr.former-{killed.pid}"
        for folder in (*others, former):
            folder.mkdir()
        assert stale.is_dir()
        write_one(out)
        assert sorted(tmp_path.iterdir()) == sorted([out, busy, *others])
        living.communicate()  # the end of its input: it finishes, finds its output taken, and leaves it alone
    assert living.returncode == 1
    assert not busy.exists()
    assert EventStore.open(out).ids == ("whole",)
