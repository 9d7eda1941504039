"""kill -9 at any moment: the run that is started again ends as the one that was never killed, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[[Path, float], int]
"""(folder, calls to live or 0) -> exit status of `tests/core/runs.py` in that folder, 9 where it was killed."""


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(ROOT / "tests/core/runs.py")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT, env=environment) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

        def start(folder: Path, last: int) -> int:
            print(folder, last, file=server.stdin, flush=True)
            return int(server.stdout.readline())

        yield start
        server.stdin.close()


def test_a_run_killed_again_and_again_ends_as_one_that_was_not(run: Run, tmp_path: Path) -> None:
    """In whatever it does: the teacher's rollouts, its store, the training, its checkpoint and log."""
    assert run(tmp_path / "whole", 0) == 0
    calls = int((tmp_path / "whole/calls").read_text())
    expected = torch.load(tmp_path / "whole/solver.pt")
    moments = random.Random(0)
    for name in ("first", "second"):
        longest, statuses = calls / 10, [signal.SIGKILL]
        while statuses[-1] == signal.SIGKILL:
            statuses.append(run(tmp_path / name, int(moments.uniform(1, longest))))
            longest *= 1.4
        assert statuses[-1] == 0
        assert len(statuses) > 4  # lives of 1/10, 1.4/10, ... of the calls at most do not make a whole one before
        got = torch.load(tmp_path / name / "solver.pt")
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected)
        assert (tmp_path / name / "run/log.jsonl").read_text() == (tmp_path / "whole/run/log.jsonl").read_text()
