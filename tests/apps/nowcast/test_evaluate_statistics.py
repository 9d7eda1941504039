"""Evaluation that keeps its statistics: scored again without forecasts, gone on with, shared by processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from apps.nowcast.evaluate import main
from apps.nowcast.evaluate_options import EvaluateOptions
from apps.nowcast.evaluation import Evaluator
from apps.nowcast.verification.pending import Pending
from data_tools.cli import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]
METHODS = "persistence,ddim-2,ddpm-1"


@pytest.fixture(scope="module")
def places(tiny_store: Path, tiny_model: Path) -> dict[str, str]:
    return {"data": str(tiny_store), "model": str(tiny_model)}


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """In this process: intervals of few resamples are as good to compare."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("apps.nowcast.evaluate.RESAMPLES", 60)
        yield


@pytest.fixture(scope="module")
def kept(places: dict[str, str], tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    options = EvaluateOptions(
        **places, methods=METHODS, batch=4, statistics=str(folder / "s.zarr"), json=str(folder / "e.json"),
        baseline="persistence", strata="source,wetness",
    )  # fmt: skip
    main(options)
    return folder


def test_it_is_told_again_without_a_forecast(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "_forecasts", None)
    monkeypatch.setattr("apps.nowcast.nowcaster.Nowcaster.load", None)
    options = EvaluateOptions(
        from_statistics=str(kept / "s.zarr"), json=str(kept / "again.json"), baseline="persistence",
        strata="source,wetness",
    )  # fmt: skip
    main(options)
    assert (kept / "again.json").read_text() == (kept / "e.json").read_text()
    assert (kept / "again.png").read_bytes() == (kept / "e.png").read_bytes()


def test_the_json_has_scores_by_lead_and_threshold_strata_and_the_baseline(kept: Path) -> None:
    content = json.loads((kept / "e.json").read_text())
    assert set(content["verification"]) == {"persistence", "ddim-2", "ddpm-1"}
    ddim = content["verification"]["ddim-2"]
    assert ddim["csi"]["by_lead"]["dims"] == ["lead", "threshold"]
    assert np.shape(ddim["csi"]["by_lead"]["value"]) == (6, 5)
    assert np.shape(ddim["fss_of_probability"]["all_leads"]["low"]) == (5, len(content["windows"]))
    assert ddim["fss"]["form"] == "member"
    assert {row["method"] for row in content["from_baseline"]} == {"ddim-2", "ddpm-1"}
    assert set(content["verification_from_baseline"]) == {"ddim-2", "ddpm-1"}
    assert content["strata"]["source"]["blobs"]["events"] == 3
    assert content["strata"]["source"]["blobs"]["methods"]["ddim-2"]["csi"] == content["rows"][1]["csi"]
    assert sum(part["events"] for part in content["strata"]["wetness"].values()) == 3


def test_methods_are_added_and_none_is_run_twice(
    kept: Path, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    forecasts = Evaluator._forecasts

    def spy(self, method, batches=None):
        ran.append(method.label)
        return forecasts(self, method, batches)

    monkeypatch.setattr(Evaluator, "_forecasts", spy)
    options = EvaluateOptions(
        **places, methods="ddim-2,ddim-1", batch=4, statistics=str(kept / "s.zarr"), json=str(tmp_path / "e.json")
    )
    main(options)
    assert set(ran) == {"ddim-1"}
    rows = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert rows[0] == json.loads((kept / "e.json").read_text())["rows"][1]
    assert [row["steps"] for row in rows] == [2, 1]


def test_two_processes_make_the_same_store(run_cli: Run, kept: Path, places: dict[str, str], tmp_path: Path) -> None:
    methods = ["persistence", "ddpm-1"]  # a window at a time, and two that draw noise
    arguments = ["--data", places["data"], "--model", places["model"], "--methods", ",".join(methods), "--batch", "4"]
    arguments += ["--statistics", str(tmp_path / "two.zarr"), "--json", str(tmp_path / "e.json"), "--devices", "2"]
    done = run_cli("apps.nowcast.evaluate", *arguments)
    assert done.returncode == 0, done.stderr
    same_statistics(kept / "s.zarr", tmp_path / "two.zarr", methods)
    one, two = (json.loads((place / "e.json").read_text())["rows"] for place in (kept, tmp_path))
    assert [row["csi"]["value"] for row in one[::2]] == [row["csi"]["value"] for row in two]
    assert done.stdout.count("Nowcasts, test split") == 1


def test_a_stopped_run_goes_on_where_it_was(
    kept: Path, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of a batch of two windows: the batch is forecast again, of the same windows."""
    statistics = tmp_path / "s.zarr"
    options = EvaluateOptions(
        **places, methods="ddim-2", batch=4, statistics=str(statistics), json=str(tmp_path / "e.json")
    )
    put = Pending.put

    def put_one(self: Pending, number: int, sums: dict, nfe: int) -> None:
        if self.done():
            raise KeyboardInterrupt
        put(self, number, sums, nfe)

    monkeypatch.setattr(Pending, "put", put_one)
    with pytest.raises(KeyboardInterrupt):
        main(options)
    monkeypatch.setattr(Pending, "put", put)
    assert Pending(tmp_path / "s.zarr.pending" / "ddim-2").done() == {0}
    assert not (tmp_path / "e.json").exists()
    monkeypatch.setattr("apps.nowcast.evaluate._tell", lambda *_: None)  # of the scores other tests tell
    main(options)
    same_statistics(kept / "s.zarr", statistics, ["ddim-2"])


def same_statistics(one: Path, two: Path, labels: list[str]) -> None:
    """All but the times that forecasts took, bit for bit."""
    for label in labels:
        first, second = (zarr.open_group(str(place / label), mode="r") for place in (one, two))
        assert first.attrs["statistics"] == second.attrs["statistics"]
        for name in first.attrs["statistics"]:
            if name != "seconds":
                np.testing.assert_array_equal(first[name][:], second[name][:], err_msg=f"{label} {name}")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_statistics(kept: Path, places: dict[str, str], tmp_path: Path) -> None:
    statistics = tmp_path / "s.zarr"
    words = ["--data", places["data"], "--model", places["model"], "--methods", "ddim-2,ddpm-1", "--batch", "4"]
    words += ["--statistics", str(statistics), "--json", str(tmp_path / "e.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "tests/dying.py", "s.zarr.pending/ddim-2/event-", "1", "apps.nowcast.evaluate", *words]
    root = Path(__file__).parents[3]
    killed = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    options = EvaluateOptions(
        **places, methods="ddim-2,ddpm-1", batch=4, statistics=str(statistics), json=str(tmp_path / "e.json")
    )
    main(options)
    same_statistics(kept / "s.zarr", statistics, ["ddim-2", "ddpm-1"])


def test_what_does_not_fit_the_store_is_refused(kept: Path, places: dict[str, str], tmp_path: Path) -> None:
    base = {**places, "methods": "ddim-2", "batch": 4, "statistics": str(kept / "s.zarr"), "json": str(tmp_path / "e")}
    for wrong, message in (
        ({"events": 1}, "another fingerprint"),
        ({"members": 3}, "another members"),
        ({"seed": 4}, "another seed"),
    ):
        with pytest.raises(UserError, match=message):
            main(EvaluateOptions(**{**base, **wrong}))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    assert not (kept / "s.zarr.pending").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "nowhere.zarr"], "nowhere.zarr, which is not there"),
        (["--from={store}", "--baseline", "magic"], "--baseline to be one of"),
        (["--from", "{store}", "--strata", "colour"], "--strata among"),
        (["--from", "{store},{store}"], "each method in one store"),
        (["--from", "{store}", "--statistics", "x.zarr"], "without --statistics"),
        (["--from", ""], "expected --from STORE"),
        (["--from", "{store}", "--methods", "ddim-2"], "expected no --methods with --from"),
        (["--from", "{store}", "--members", "8"], "expected no --members with --from"),
        (["--devices", "0"], "--devices of at least 1"),
    ],
)
def test_mistakes_are_told_in_one_line(
    run_here: Run, kept: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    words = [word.replace("{store}", str(kept / "s.zarr")) for word in options]
    done = run_here("apps.nowcast.evaluate", "--json", str(tmp_path / "e.json"), *words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
