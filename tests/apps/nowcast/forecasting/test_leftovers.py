"""What a killed process leaves beside its output, and that a living one keeps what it is writing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apps.nowcast.forecasting.ensemble import Ensemble
from apps.nowcast.forecasting.production import Order, produce
from apps.nowcast.methods import Method
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.output.leftovers import clear, partial

DYING = """
import os, signal, sys
import numpy as np
from pathlib import Path
from apps.nowcast.forecasting.scene import Place
from apps.nowcast.output.formats import opened
from apps.nowcast.output.layout import Layout
from data_tools.quantities import RAINFALL_RATE
start = np.datetime64("2020-01-01", "s")
place = Place(np.arange(5.0), np.arange(4.0)[::-1], "m", {})
layout = Layout(RAINFALL_RATE, place, start, start + np.arange(1, 3) * np.timedelta64(300, "s"), 2)
writers = [opened(Path(path), layout) for path in sys.argv[1:]]
for writer in writers:
    writer.__enter__().write("rainfall_rate", 0, np.ones((2, 4, 5), np.float32))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_run_removes_what_a_killed_one_left(
    tmp_path: Path, nowcaster: Nowcaster, method: Method, rain: Callable, scene_of: Callable
) -> None:
    outs = [tmp_path / "n.nc", tmp_path / "n.zarr"]
    root = Path(__file__).parents[4]
    killed = subprocess.run([sys.executable, "-c", DYING, *map(str, outs)], cwd=root, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(tmp_path.glob(".n.*.part.*"))) == 2
    living = [path.with_name(f".n.{os.getppid()}.part{path.suffix}") for path in outs]
    living[0].write_bytes(b"being written")
    living[1].mkdir()
    ensemble = Ensemble.build(nowcaster, method, scene_of(rain(20, 30)), overlap=8, batch=8, sample_dry=False)
    for out in outs:
        produce(out, ensemble, Order(1))
    assert sorted(tmp_path.iterdir()) == sorted([*outs, *living])


@pytest.fixture
def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_leftovers_of_this_output_go(tmp_path: Path, dead: int) -> None:
    mine = [f".n.{dead}.part.nc", f".n.nc.{dead}.part"]
    others = [
        f".m.{dead}.part.nc", f".n.{dead}.part.zarr", f".n-20200101T000000Z.{dead}.part.nc", f"n.{dead}.part.nc",
        f".n.{os.getpid()}.part.nc", f".n.{dead}.old.nc", ".n.x.part.nc", f".nn.{dead}.part.nc",
    ]  # fmt: skip
    for name in mine + others:
        (tmp_path / name).write_bytes(b"")
    clear(tmp_path / "n.nc")
    assert {path.name for path in tmp_path.iterdir()} == set(others)
    clear(tmp_path / "n.nc", stamped=True)
    assert {path.name for path in tmp_path.iterdir()} == set(others) - {others[2]}
    clear(tmp_path / "n.nc", what="old")
    assert {path.name for path in tmp_path.iterdir()} == set(others) - {others[2], others[5]}
    clear(tmp_path / "nowhere/n.nc")


def test_names_are_no_patterns(tmp_path: Path, dead: int) -> None:
    (tmp_path / f".nxx.{dead}.part.nc").write_bytes(b"")
    (tmp_path / f".n(1.{dead}.part.nc").write_bytes(b"")
    clear(tmp_path / "n...nc")
    clear(tmp_path / "n(1.nc")
    assert [path.name for path in tmp_path.iterdir()] == [f".nxx.{dead}.part.nc"]
    assert partial(tmp_path / "n.nc").name == f".n.{os.getpid()}.part.nc"
