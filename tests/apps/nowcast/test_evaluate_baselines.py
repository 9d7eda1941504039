"""pysteps' baselines in the evaluation, as a user runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from apps.nowcast import pysteps_calls
from apps.nowcast.baselines import Members
from apps.nowcast.data import load_windows, member_seed
from apps.nowcast.filling import beside, filling_lines, fillings
from apps.nowcast.metrics import Statistics
from apps.nowcast.pysteps_calls import require_pysteps
from apps.nowcast.pysteps_methods import FORECASTERS
from apps.nowcast.verification.store import StatisticsStore

needs_pysteps = pytest.mark.skipif(
    find_spec("pysteps") is None or find_spec("cv2") is None, reason="pysteps or opencv is not installed"
)
Run = Callable[..., subprocess.CompletedProcess[str]]
METHODS = {"persistence": 1, "extrapolation": 1, "sprog": 1, "steps": 3}


@needs_pysteps
def test_baselines_are_scored_as_the_model_is(
    run_here: Run, tiny_store: Path, tiny_model: Path, tmp_path: Path
) -> None:
    arguments = ["--data", str(tiny_store), "--model", str(tiny_model), "--members", "3"]
    arguments += ["--methods", ",".join(METHODS), "--statistics", str(tmp_path / "s.zarr")]
    done = run_here("apps.nowcast.evaluate", *arguments, "--json", str(tmp_path / "e.json"))
    assert done.returncode == 0, done.stderr
    for text in ("S-PROG", "STEPS", "of its pixels come from beyond the frame"):
        assert text in done.stdout
    assert "pysteps" not in done.stdout.lower()  # nor its greetings and prints
    content = json.loads((tmp_path / "e.json").read_text())
    rows = {row["method"]: row for row in content["rows"]}
    assert set(rows) == {"persistence", "extrapolation", "S-PROG", "STEPS"}
    assert rows["extrapolation"]["csi"]["value"] > rows["persistence"]["csi"]["value"]  # the blobs move evenly
    assert all(rows[name]["seconds_per_member"]["value"] > 0 for name in ("extrapolation", "S-PROG", "STEPS"))
    assert {row["method"] for row in content["fillings"]} == {"extrapolation", "sprog", "steps"}
    assert content["calibration"][0]["method"] == "steps"

    store = StatisticsStore.open(tmp_path / "s.zarr")
    stored = {method.label: method for method in store.methods()}
    assert {label: stored[label].members for label in METHODS} == METHODS
    assert stored["steps"].description["pysteps"]
    # what was scored is what the forecaster gives for the window's own members' seeds
    windows = load_windows(str(tiny_store), "test", 13)
    index = windows.ids.index(store.picture.event)
    seeds = [member_seed(0, windows.ids[index], member) for member in range(3)]
    made = FORECASTERS["steps"](windows.frames[index][:7], 6, seeds, 5.0, windows.quantity)
    np.testing.assert_array_equal(stored["steps"].pictured, made.frames)

    other = ["--data", str(tiny_store), "--model", str(tiny_model), "--methods", "steps", "--members", "2"]
    refused = run_here("apps.nowcast.evaluate", *other, "--statistics", str(tmp_path / "s.zarr"))
    assert refused.returncode == 2
    assert "another members (3 and 2)" in refused.stderr
    kept = ((label, method.members, method.statistics) for label, method in stored.items())
    assert fillings(kept, store.scope.size) == content["fillings"]


def test_without_pysteps_nothing_is_started(
    run_here: Run, tiny_store: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pysteps_calls, "find_spec", lambda name: None)
    base = ["--data", str(tiny_store), "--model", str(tiny_model), "--json", str(tmp_path / "e.json")]
    done = run_here("apps.nowcast.evaluate", *base, "--methods", "persistence,sprog")
    assert done.returncode == 2
    assert "--methods sprog" in done.stderr
    assert "pip install 'spanlift[pysteps]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_fillings_are_counted_by_hand() -> None:
    """Two members of 3 leads of 4 x 5 pixels in 2 events: 120 pixels each."""
    frames = np.zeros((2, 3, 4, 5), np.float32)
    rows = [
        ("a", beside(Members(frames, np.array([1, 2, 3])))),
        ("b", beside(Members(frames, np.array([0, 0, 18]), "extrapolation"))),
    ]
    bare = Statistics(("a", "b"), {"pixels": np.ones((2, 3))})
    told = fillings([("steps", 2, Statistics.stack(rows)), ("ddim-5", 2, bare)], (4, 5))
    assert told == [{"method": "steps", "filled_share": 0.1, "stand_in_events": 1, "events": 2}]
    (line,) = filling_lines(told)
    assert "10.0%" in line
    assert "1 of 2 events" in line


@needs_pysteps
def test_pysteps_is_loaded_before_anything_is_timed() -> None:
    import sys

    require_pysteps("the tests")
    assert {"pysteps", "pysteps.motion", "pysteps.nowcasts"} <= set(sys.modules)
