"""Fixtures that all tests share."""

from __future__ import annotations

import io
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
MOST_WORKERS = 4

settings.register_profile("untimed", deadline=None)  # a busy machine must not fail a test
settings.load_profile("untimed")

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: processes side by side share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes that run tests side by side: none where time is measured, or where one file is all there is to run."""
    one_file = len(config.args) == 1 and ".py" in config.args[0]
    return 0 if one_file or config.getoption("benchmark_enable") else min(MOST_WORKERS, os.cpu_count() or 1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real archives and reference numbers, where there are any: SPANLIFT_SHARED, else a sibling `shared`."""
    folder = Path(os.environ.get("SPANLIFT_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder of real data at {folder}; point SPANLIFT_SHARED to one")
    return folder


@pytest.fixture(scope="session")
def run_cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_cli("data_tools.storms", "--events", "2", ...)` runs `python -m data_tools.storms ...` as a user would."""

    def run(
        module: str, *arguments: str, timeout: float = 300.0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_here("data_tools.storms", ...)` does what `run_cli` does inside this process, without the seconds that a new
    one takes to import torch: for all but one run of each command."""

    def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        out, err, code = io.StringIO(), io.StringIO(), 0
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.delitem(sys.modules, module, raising=False)  # else runpy warns; the tests' own import comes back
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except SystemExit as stopped:
                code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        return subprocess.CompletedProcess([module, *arguments], code, out.getvalue(), err.getvalue())

    return run
