"""Evaluation as a user runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import core
from apps.nowcast.evaluate import main
from apps.nowcast.evaluate_options import EvaluateOptions
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.stages.solver import SolverStage, build_corrected
from core.fitting import FitConfig
from data_tools.split_files import Part, Split, Window, write_split
from data_tools.store import EventStore

Run = Callable[..., subprocess.CompletedProcess[str]]
SCORES = {"hss", "csi", "csi4", "csi16", "crps", "lpips", "seconds_per_member"}


def untrained_solver(path: Path, nowcaster: Nowcaster, identity: str | None = None) -> Path:
    fitting = FitConfig(iterations=1, learning_rate=1e-3)
    stage = SolverStage("teacher", fitting, 1, 1, 0, 5, "ddim", 8, 3, None, "ddim", 3, 1, 1)
    torch.manual_seed(0)
    return core.save(
        path,
        build_corrected(stage, nowcaster),
        grid=nowcaster.grid(5),
        field_identity=identity or nowcaster.identity,
        supervision="teacher",
        loss="none",
    )


@pytest.fixture(scope="module")
def evaluated(run_cli: Run, nowcaster: Nowcaster, tiny_store: Path, tiny_model: Path, tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("evaluated")
    solver = untrained_solver(folder / "solver.safetensors", nowcaster)
    arguments = ["--data", str(tiny_store), "--model", str(tiny_model), "--members", "2", "--solver", str(solver)]
    arguments += ["--methods", "persistence,ddim-100,teacher,ddim-5,ddpm-7,heun-2", "--json", str(folder / "e.json")]
    return run_cli("apps.nowcast.evaluate", *arguments), folder, arguments


def test_the_json_has_its_agreed_form(evaluated: tuple) -> None:
    done, folder, _ = evaluated
    assert done.returncode == 0, done.stderr
    content = json.loads((folder / "e.json").read_text())
    assert (content["split"], content["events"], content["seed"]) == ("test", 3, 0)
    rows = {(row["method"], row["steps"]): row for row in content["rows"]}
    assert rows[("persistence", None)]["nfe"] == 0
    assert rows[("ddim", 100)]["nfe"] == 100
    assert rows[("ddim", 5)]["nfe"] == 5
    assert rows[("ddpm", 7)]["nfe"] == 7
    assert rows[("SpanLift", 5)]["supervision"] == "teacher"
    for row in content["rows"]:
        assert set(row) >= SCORES
        for name in SCORES - {"seconds_per_member"}:
            low, high = row[name]["ci95"]
            assert low <= row[name]["value"] <= high
    assert content["perceptual_distance"].startswith("LPIPS-like")


def test_an_untrained_operator_scores_as_its_base(evaluated: tuple) -> None:
    content = json.loads((evaluated[1] / "e.json").read_text())
    rows = {(row["method"], row["steps"]): row for row in content["rows"]}
    for name in SCORES - {"seconds_per_member"}:
        assert rows[("SpanLift", 5)][name] == rows[("ddim", 5)][name]
    (comparison,) = content["comparisons"]
    assert comparison["hss"]["value"] == 0.0
    if comparison["csi16_recovered"] is None:
        assert comparison["csi16_lost"]["ci95"][0] <= 0
    else:
        assert comparison["csi16_recovered"]["value"] == 0.0


def test_persistence_matches_a_count_by_hand(evaluated: tuple, tiny_store: Path) -> None:
    store = EventStore.open(tiny_store)
    events = [store.read(index) for index in store.indices("test")]
    by_threshold = []
    for threshold in np.float32(store.quantity.thresholds):
        hits = misses = false_alarms = 0
        for frames in events:
            last = np.nan_to_num(frames[6])
            for truth in frames[7:]:
                seen = ~np.isnan(truth)
                forecast, observed = (last >= threshold) & seen, (truth >= threshold) & seen
                hits += int((forecast & observed).sum())
                misses += int((observed & ~forecast).sum())
                false_alarms += int((forecast & ~observed).sum())
        by_threshold.append(hits / (hits + misses + false_alarms))
    content = json.loads((evaluated[1] / "e.json").read_text())
    row = next(row for row in content["rows"] if row["method"] == "persistence")
    assert row["csi"]["value"] == pytest.approx(np.mean(by_threshold), abs=1e-12)


def test_table_picture_and_comparison_are_shown(evaluated: tuple) -> None:
    done, folder, _ = evaluated
    for text in ("HSS", "CSI-16", "persistence", "SpanLift", "minus ddim-5", "3 events"):
        assert text in done.stdout
    assert (folder / "e.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "e-calibration.png").read_bytes().startswith(b"\x89PNG")


def test_existing_outputs_are_kept_unless_told(run_here: Run, evaluated: tuple) -> None:
    _, folder, arguments = evaluated
    before = (folder / "e.json").read_bytes()
    short = [*arguments, "--methods", "persistence", "--events", "1"]
    refused = run_here("apps.nowcast.evaluate", *short)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert (folder / "e.json").read_bytes() == before


def test_listed_windows_are_those_that_are_scored(tiny_store: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A list counts, whatever split the store has its events in."""
    chosen = Part(13, 13, (Window("train-1", 0), Window("test-0", 0)))
    write_split(tmp_path / "split.json", Split("mine", {"test": chosen}))
    places = {"data": str(tiny_store), "model": str(tiny_model), "windows": str(tmp_path / "split.json")}
    main(EvaluateOptions(**places, methods="persistence", members=1, json=str(tmp_path / "e.json")))
    assert json.loads((tmp_path / "e.json").read_text())["events"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "magic-5"], "--methods among"),
        (["--methods", "ddim-0"], "--methods among"),
        (["--methods", "ddim-3,ddim-3"], "once"),
        (["--solver", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--data", "nowhere.zarr"], "is not there"),
        (["--members", "0"], "--members of at least 1"),
        (["--split", "elsewhere"], "split"),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
        (["--windows", "nowhere.json"], "nowhere.json"),
        (["--anticipated", "0.1"], "aligned-ddpm-STEPS among --methods"),
        (["--methods", "aligned-ddpm-2"], "--anticipated"),
        (["--guide_scale", "7"], "expected --anticipated with --guide_scale"),
        (["--alignment", "a.safetensors"], "expected --anticipated with"),
    ],
)
def test_mistakes_are_told_in_one_line(
    run_here: Run, tiny_store: Path, tiny_model: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    base = ["--data", str(tiny_store), "--model", str(tiny_model), "--methods", "persistence"]
    done = run_here("apps.nowcast.evaluate", *base, "--json", str(tmp_path / "e.json"), *options)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_solver_of_another_model_is_refused(
    run_here: Run, nowcaster: Nowcaster, tiny_store: Path, tiny_model: Path, tmp_path: Path
) -> None:
    solver = untrained_solver(tmp_path / "solver.safetensors", nowcaster, identity="0123456789abcdef")
    base = ["--data", str(tiny_store), "--model", str(tiny_model), "--json", str(tmp_path / "e.json")]
    done = run_here("apps.nowcast.evaluate", *base, "--solver", str(solver))
    assert done.returncode == 2
    assert "0123456789abcdef" in done.stderr
