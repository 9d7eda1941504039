"""The form of the notebooks: names, opening, sizes, no outputs, nothing of the machine they were written on."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

NAMES = [
    "1-quick-start",
    "2-why-scalar-solvers-stall",
    "3-dyweight",
    "4-s4s",
    "5-nowcasting",
    "6-train-your-own",
]
"""All of them, in the order of reading."""

MOST_LINES = 28
"""Of a code cell, which should have 25 or fewer: what is longer belongs into a function with a test."""

KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}

DURATION = re.compile(
    r"^Takes about (?:\d+(?:\.\d)?|half a|a|one|two|three) (?:seconds|minutes?) on two CPU cores; needs .+",
    re.MULTILINE,
)
FOREIGN = re.compile(r"/(?:work|tmp|home|root|Users|mnt)/|[A-Z]:\\\\|\.\./shared|SPANLIFT_SHARED|https?://localhost")
"""Places of one machine."""

COMMAND = re.compile(r"^\s*[!%].*$", re.MULTILINE)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_of(notebook: NotebookNode) -> list[tuple[str, str]]:
    """(id, source) of the code cells."""
    return [(cell.id, cell.source) for cell in notebook.cells if cell.cell_type == "code"]


def parsed(source: str) -> ast.Module:
    """The Python of a cell; lines of IPython's own are left out."""
    return ast.parse(COMMAND.sub("pass", source))


def test_all_are_there_by_name() -> None:
    assert [path.stem for path in NOTEBOOKS] == NAMES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "notebook" in metafunc.fixturenames:
        metafunc.parametrize("notebook", [read(path) for path in NOTEBOOKS], ids=[path.stem for path in NOTEBOOKS])


def test_it_is_a_clean_notebook(notebook: NotebookNode) -> None:
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    nbformat.validate(notebook)
    assert notebook.metadata == KERNEL
    assert [cell.id for cell in notebook.cells] == [f"cell-{n:02d}" for n in range(1, len(notebook.cells) + 1)]
    assert all(cell.metadata == {} for cell in notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), f"{cell.id} has been run: strip its outputs"


def test_it_opens_with_what_one_learns_and_how_long_it_takes(notebook: NotebookNode) -> None:
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    title, *rest = first.source.splitlines()
    assert re.fullmatch(r"# \S.+", title)
    assert len(DURATION.findall(first.source)) == 1
    prose = DURATION.sub("", "\n".join(rest)).split()
    assert 15 <= len(prose) <= 250, f"{len(prose)} words of opening"


def test_its_cells_are_short_and_are_python(notebook: NotebookNode) -> None:
    for name, source in code_of(notebook):
        assert source.strip(), f"{name} is empty"
        assert len(source.splitlines()) <= MOST_LINES, f"{name} has {len(source.splitlines())} lines"
        parsed(source)


def test_prose_stands_between_the_code(notebook: NotebookNode) -> None:
    kinds = [cell.cell_type for cell in notebook.cells]
    assert set(kinds) == {"markdown", "code"}
    longest = max(len(run) for run in "".join(kind[0] for kind in kinds).split("m"))
    assert longest <= 3, f"{longest} cells of code without a word between them"
    assert kinds[-1] == "markdown", "it ends without what to try next"


def test_it_names_no_place_of_a_machine(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        found = FOREIGN.findall(cell.source)
        assert not found, f"{cell.id} has {found}"


def test_its_modules_are_there(notebook: NotebookNode) -> None:
    """`python -m` of the project leads somewhere, and so do its imports; what is imported beside is installed."""
    known = {"core", "apps", "data_tools"}
    for name, source in code_of(notebook):
        imported = [n.module or "" for n in ast.walk(parsed(source)) if isinstance(n, ast.ImportFrom)]
        imported += [a.name for n in ast.walk(parsed(source)) if isinstance(n, ast.Import) for a in n.names]
        imported += re.findall(r'(?:-m |"-m", ")([\w.]+)', source)
        for module in imported:
            if module.split(".")[0] in known:
                place = ROOT / module.replace(".", "/")
                assert place.with_suffix(".py").is_file() or place.is_dir(), f"{name}: no module {module}"


def test_a_failing_command_fails_it(notebook: NotebookNode) -> None:
    for name, source in code_of(notebook):
        assert not re.search(r"^\s*!", source, re.MULTILINE), f"{name}: `!` goes on after a failure; subprocess.run"
        if "check_returncode()" not in source:
            for call in re.findall(r"subprocess\.run\((?:[^()]|\([^()]*\))*\)", source):
                assert "check=True" in call, f"{name}: subprocess.run without check=True goes on after a failure"
