"""Every notebook runs through: `pytest -m notebook`, each in its folder, in a kernel of this Python, warnings told.

Nothing is written back into the files. What a kernel leaves behind, and what hangs, is killed.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

PATIENCE = 900.0
"""Seconds a notebook may take where the machine has other work to do; they take about a minute where it has none."""

STRICT = "error::FutureWarning,error::PendingDeprecationWarning"
"""Warnings that end a cell, in the notebook and in the commands it runs; others are found in what the cell shows."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_WARNING = re.compile(r"\b\w*Warning: ")


class Failed(Exception):
    """A notebook did not run through; the message says which cell, what is in it and what went wrong."""


def execute(path: Path, folder: Path, patience: float = PATIENCE) -> float:
    """Run the notebook at `path` in `folder`, all cells in their order; the seconds it took.

    Raises:
        Failed: a cell raised, warned, or was not done within `patience` seconds of the beginning.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.read(path, as_version=4)
    began, at, groups = time.monotonic(), [notebook.cells[0]], set[int]()

    def starting(cell: NotebookNode, **_: object) -> None:
        at[0] = cell
        provisioner = getattr(client.km, "provisioner", None)
        groups.add(getattr(provisioner, "pgid", None) or os.getpgrp())

    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        timeout_func=lambda cell: max(1.0, patience - (time.monotonic() - began)),
        shutdown_kernel="immediate",
        on_cell_start=starting,
    )
    try:
        client.execute()
    except CellTimeoutError:
        raise Failed(told(path, at[0], f"not done after {patience:g} s")) from None
    except CellExecutionError as error:
        raise Failed(told(path, at[0], f"{error.ename}: {error.evalue}")) from None
    except DeadKernelError:
        raise Failed(told(path, at[0], "its kernel died")) from None
    finally:
        end(groups)
    for cell in notebook.cells:
        if complaint := warning_of(cell):
            raise Failed(told(path, cell, complaint))
    return time.monotonic() - began


def end(groups: set[int]) -> None:
    """Kill the process groups of a kernel: what a cell started must not outlive it, hung or not."""
    for group in groups - {os.getpgrp()}:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue


def told(path: Path, cell: NotebookNode, why: str, lines: int = 12) -> str:
    """A failed cell in short: where it is, the error, its source, the last lines of what it wrote."""
    written = "".join(output.get("text", "") for output in cell.get("outputs", []))
    tail = _COLOUR.sub("", written).strip().splitlines()[-lines:]
    parts = [f"{path.name}, {cell.get('id', '?')}: {_COLOUR.sub('', why)}", "--- its source", cell.source.strip()]
    return "\n".join(parts + (["--- what it wrote last", *tail] if tail else []))


def warning_of(cell: NotebookNode) -> str:
    """The line in which a cell, or a command it ran, warned: a reader would see it. Empty where there is none."""
    texts = [_COLOUR.sub("", output.text) for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    return next((line.strip() for text in texts for line in text.splitlines() if _WARNING.search(line)), "")


@pytest.fixture
def kernel_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of this Python alone, whose temporary files go with the test."""
    for name, folder in (("TMPDIR", "temporary"), ("JUPYTER_DATA_DIR", "jupyter"), ("JUPYTER_RUNTIME_DIR", "runtime")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("PYTHONWARNINGS", STRICT)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # a kernel draws inline
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # under it a kernel does not show what commands print


@pytest.mark.notebook
@pytest.mark.usefixtures("kernel_environment")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs_through(path: Path, record_property: Callable[[str, object], None]) -> None:
    before = path.read_bytes()
    try:
        record_property("seconds", execute(path, FOLDER))
    except Failed as failed:
        pytest.fail(str(failed), pytrace=False)
    assert path.read_bytes() == before
    beside = [entry.name for entry in FOLDER.iterdir() if entry.suffix != ".ipynb" and entry.name[0] not in "._"]
    assert not beside, f"{path.name}, or one that ran beside it, left {beside} in its folder"


def written(path: Path, *sources: str) -> Path:
    """A notebook of code cells."""
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
    return path


@pytest.mark.notebook
@pytest.mark.usefixtures("kernel_environment")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("print('so far')\n{}['depth']", ("KeyError: 'depth'", "{}['depth']", "so far")),
        ("import subprocess, sys\nsubprocess.run([sys.executable, '-c', '1/0'], check=True)", ("CalledProcessError",)),
        ("import warnings\nwarnings.warn('old')", ("UserWarning: old",)),
        ("import os\nos._exit(3)", ("its kernel died",)),
    ],
    ids=["error", "command", "warning", "death"],
)
def test_what_fails_is_told_in_short(source: str, words: tuple[str, ...], tmp_path: Path) -> None:
    path = written(tmp_path / "a.ipynb", "depth = 1", source, "print('never')")
    with pytest.raises(Failed) as caught:
        execute(path, tmp_path)
    message = str(caught.value)
    assert message.startswith("a.ipynb, ")
    assert all(word in message for word in (*words, source))
    assert "never" not in message
    assert len(message.splitlines()) < 25


@pytest.mark.notebook
@pytest.mark.usefixtures("kernel_environment")
def test_what_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    start = f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {deaf!r}])"
    path = written(tmp_path / "a.ipynb", f"{start}\nopen('child', 'w').write(str(child.pid))", deaf)
    began = time.monotonic()
    with pytest.raises(Failed, match="not done after 8 s"):
        execute(path, tmp_path, patience=8.0)
    assert time.monotonic() - began < 60
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not alive(child):
            return
        time.sleep(0.1)
    pytest.fail("the child of the kernel lives on")


def alive(pid: int) -> bool:
    """Whether a process runs: a dead one that nobody waits for does not."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
