"""Every stage of training: the same gradient in several passes, with less memory, on two processes and cut over them;
killed at any moment it ends as one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
Start = Callable[..., int]
"""(folder, stage, how it is executed) -> exit status of the run in that folder."""
Alone = Callable[[str], Path]
"""Stage -> folder of its first iteration in one process and one pass."""
STAGES = {
    "autoencoder": ("autoencoder", "autoencoder.safetensors"),
    "diffusion": ("unet", "unet.safetensors"),
    "alignment": ("alignment", "alignment.safetensors"),
    "teacher": ("run", "solver.safetensors"),
    "target": ("run", "solver.safetensors"),
}
"""Folder of the checkpoint and log, and the weights that are written."""
OF_THE_MODEL = ["autoencoder", "diffusion", "alignment"]
OF_SOLVERS = ["teacher", "target"]
CUT = {"processes": 2, "passes": 2, "rematerialise": True, "sharded": True}


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    pytest.importorskip("lightning_fabric", reason="needs spanlift[distributed]")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(ROOT / "tests/apps/nowcast/stage_runs.py")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT, env=environment) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

        def run(folder: Path, stage: str, **how: Any) -> int:
            print(json.dumps({"stage": stage, **how}), folder, file=server.stdin, flush=True)
            return int(server.stdout.readline())

        yield run
        server.stdin.close()


def gradient(folder: Path, stage: str) -> dict[str, Tensor]:
    """Of the first iteration, clipped: Adam's first moment is a tenth of it."""
    state = torch.load(folder / STAGES[stage][0] / "checkpoint.pt", weights_only=True)["optimizer"]["state"]
    return {str(index): 10 * moments["exp_avg"] for index, moments in state.items()}


@pytest.fixture(scope="module")
def alone(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Runs a stage once for all that is compared with it."""
    folders: dict[str, Path] = {}

    def run(stage: str) -> Path:
        if stage not in folders:
            folders[stage] = tmp_path_factory.mktemp(stage)
            assert start(folders[stage], stage, first=True) == 0
        return folders[stage]

    return run


def assert_same_gradient(one_folder: Path, other_folder: Path, stage: str) -> None:
    """Of runs that have done their first iteration."""
    one, other = (gradient(folder, stage) for folder in (one_folder, other_folder))
    largest = max(value.abs().max().item() for value in one.values())
    assert largest > 1e-2
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=2e-6 * largest)
    logs = [json.loads((folder / STAGES[stage][0] / "log.jsonl").read_text()) for folder in (one_folder, other_folder)]
    assert logs[1]["loss"] == pytest.approx(logs[0]["loss"], rel=1e-5)


@pytest.mark.parametrize("stage", OF_THE_MODEL)
def test_processes_in_passes_that_forget_have_the_gradient_of_one(
    start: Start, alone: Alone, tmp_path: Path, stage: str
) -> None:
    assert start(tmp_path, stage, first=True, processes=2, passes=2, rematerialise=True) == 0
    assert_same_gradient(alone(stage), tmp_path, stage)


@pytest.mark.parametrize("how", [{"processes": 2}, {"passes": 3, "rematerialise": True}], ids=["processes", "passes"])
@pytest.mark.parametrize("stage", OF_SOLVERS)
def test_a_solver_has_the_gradient_of_one(
    start: Start, alone: Alone, tmp_path: Path, stage: str, how: dict[str, Any]
) -> None:
    """Of three windows: processes or passes, not both."""
    assert start(tmp_path, stage, first=True, **how) == 0
    assert_same_gradient(alone(stage), tmp_path, stage)


@pytest.mark.parametrize(
    "stage", ["autoencoder", pytest.param("alignment", marks=pytest.mark.slow)]
)  # the alignment network has the blocks of the UNet, which is cut below
def test_a_model_cut_over_processes_has_the_gradient_of_one(
    start: Start, alone: Alone, tmp_path: Path, stage: str
) -> None:
    assert start(tmp_path, stage, first=True, **CUT) == 0
    assert_same_gradient(alone(stage), tmp_path, stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_again_and_again_ends_as_one_that_was_not(start: Start, tmp_path: Path, stage: str) -> None:
    """In whatever it does: encoding, the teacher's rollouts, the training, its checkpoint and log."""
    assert start(tmp_path / "whole", stage, counts=True) == 0
    calls = int((tmp_path / "whole.calls").read_text())
    moments = random.Random(stage)
    assert start(tmp_path / "killed", stage, dies_at=int(moments.uniform(0.1, 0.9) * calls)) == signal.SIGKILL
    # What is left may have fewer calls.
    assert start(tmp_path / "killed", stage, dies_at=int(moments.uniform(0.1, 0.9) * calls)) in (0, signal.SIGKILL)
    assert start(tmp_path / "killed", stage) == 0
    run, weights = STAGES[stage]
    expected, got = (load_file(tmp_path / name / weights) for name in ("whole", "killed"))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    logs = [(tmp_path / name / run / "log.jsonl").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    assert len(logs[0].splitlines()) == 6


def test_a_run_that_was_cut_goes_on_whole(start: Start, alone: Alone, tmp_path: Path) -> None:
    """Checkpoints hold whole tensors: the first iteration on two processes, with the gradient of one; the others on
    one."""
    assert start(tmp_path / "cut", "diffusion", stops_at=1, **CUT) == 0
    assert_same_gradient(alone("diffusion"), tmp_path / "cut", "diffusion")
    assert not (tmp_path / "cut/unet.safetensors").exists()
    assert start(tmp_path / "cut", "diffusion") == 0
    assert start(tmp_path / "whole", "diffusion") == 0
    logs = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "unet/log.jsonl").read_text().splitlines()]
        for name in ("cut", "whole")
    ]
    assert len(logs[0]) == 6
    assert logs[0] == pytest.approx(logs[1], rel=1e-3)
    assert logs[0][1:] != pytest.approx(logs[0][:-1], rel=1e-3)
