"""`evaluate --report` and `python -m apps.nowcast.report`, as a user runs them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from apps.nowcast.evaluate import main
from apps.nowcast.evaluate_options import EvaluateOptions
from data_tools.cli import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def kept(tiny_store: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("apps.nowcast.evaluate.RESAMPLES", 60)
        main(
            EvaluateOptions(
                data=str(tiny_store), model=str(tiny_model), methods="persistence,ddim-2", batch=4,
                statistics=str(folder / "s.zarr"), json=str(folder / "e.json"), report=str(folder / "r.html"),
            )
        )  # fmt: skip
    return folder


def tables(page: str) -> list[str]:
    return re.findall(r"<table>.*?</table>", page, re.DOTALL)


def test_the_report_stands_beside_the_json(kept: Path) -> None:
    page = (kept / "r.html").read_text()
    assert page.startswith("<!doctype html>")
    assert '<th scope="row">ddim-2</th>' in page
    assert re.search(r"<dt>Statistics</dt><dd><code>python [^<]+</code>", page)
    assert re.search(r"Versions of the statistics</dt><dd>python 3[^<]*, torch 2", page)


def test_a_store_tells_the_same_without_a_forecast(
    kept: Path, run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.nowcast.evaluate.RESAMPLES", 60)
    monkeypatch.setattr("apps.nowcast.nowcaster.Nowcaster.load", None)
    done = run_here("apps.nowcast.report", str(kept / "s.zarr"), "--out", str(tmp_path / "again.html"))
    assert done.returncode == 0, done.stderr
    one, two = ((place).read_text() for place in (kept / "r.html", tmp_path / "again.html"))
    assert tables(one) == tables(two)
    assert re.findall('data:image[^"]*', one) == re.findall('data:image[^"]*', two)


def test_it_runs_as_a_command(kept: Path, run_cli: Run, tmp_path: Path) -> None:
    out = tmp_path / "new" / "r.html"
    words = [str(kept / "s.zarr"), "--out", str(out), "--baseline", "persistence", "--strata", "source,season"]
    done = run_cli("apps.nowcast.report", *words)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"wrote {out}" in done.stderr.replace("\n", "")
    page = out.read_text()
    assert "Differences from persistence" in page
    assert "December to February" in page
    assert f"<code>python -m apps.nowcast.report {kept / 's.zarr'}" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.zarr"], "nowhere.zarr, which is not there"),
        ([","], "got none; name one"),
        (["{kept}/s.zarr,{kept}/s.zarr"], "got persistence again"),
        (["{kept}/s.zarr", "--baseline", "steps"], "got 'steps'"),
        (["{kept}/s.zarr", "--strata", "colour"], "got 'colour'"),
        (["{kept}/s.zarr", "--out", "{kept}/r.html"], "add --overwrite"),
        (["{kept}/s.zarr", "--out", "{kept}"], "got the folder"),
        (["{kept}/s.zarr", "--out", "/proc/nowhere/r.html"], "/proc/nowhere/r.html"),
        (["{kept}/s.zarr", "--out", "/dev/null/r.html"], "/dev/null"),
        (["{kept}/s.zarr", "--out", "{kept}/e.json/r.html"], "got the file"),
        (["{kept}/e.json"], "got another thing at"),
    ],
)
def test_mistakes_are_one_line(
    kept: Path, run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_here("apps.nowcast.report", *(word.replace("{kept}", str(kept)) for word in words))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.rglob("*.html")) == []


def test_evaluate_refuses_a_report_that_it_would_lose(kept: Path, tmp_path: Path) -> None:
    for report, message in ((kept / "r.html", "add --overwrite"), (tmp_path / "e.json", "twice")):
        options = EvaluateOptions(
            from_statistics=str(kept / "s.zarr"), json=str(tmp_path / "e.json"), report=str(report)
        )
        with pytest.raises(UserError, match=message):
            main(options)
    assert list(tmp_path.iterdir()) == []
