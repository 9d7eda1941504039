"""Training as a user runs it: every stage, a kill and a resume, and mistakes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import core
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.stages import autoencoder

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[3]
FAST = ("--batch", "2", "--pairs", "3", "--width", "8")


def common(store: Path, model: Path, out: Path) -> list[str]:
    return ["--data", str(store), "--model", str(model), "--out", str(out), *FAST]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the process that is killed: sums depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("supervision", ["teacher", "target"])
def test_a_solver_is_trained_and_samples(
    run_here: Run, nowcaster: Nowcaster, tiny_store: Path, tiny_model: Path, tmp_path: Path, supervision: str
) -> None:
    options = ["--supervision", supervision, "--iterations", "3"]
    if supervision == "target":
        options += ["--loss", "crps=1,crps4=0.5,mse=0.1,mean=0.1,latent=0.01"]
    else:
        options += ["--teacher", "ddim", "--teacher_steps", "4"]
    done = run_here("apps.nowcast.train", *common(tiny_store, tiny_model, tmp_path / "s"), *options)
    assert done.returncode == 0, done.stderr
    solver = core.load(tmp_path / "s")
    assert solver.card.supervision == supervision
    assert solver.card.field_identity == nowcaster.identity
    assert solver.card.extra["command"]["iterations"] == 3
    assert solver.card.extra["data"]["windows"] == {"blobs": 5}
    forecast = nowcaster.forecast(torch.rand(1, 7, 32, 32), solver, solver.card.grid, [1, 2])
    assert forecast.nfe == 5
    assert torch.isfinite(forecast.frames).all()


def test_the_model_stages_follow_each_other(run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On frames of the real size, since the sizes of `mini` are fixed; but for the latents' scale a few will do."""
    monkeypatch.setattr(autoencoder, "_normalise", partial(autoencoder._normalise, frames=8))
    options = ["--data", "storms", "--events", "1", "--batch", "1", "--iterations", "1"]
    for stage, more in (("autoencoder", []), ("diffusion", ["--variants", "1"])):
        done = run_here("apps.nowcast.train", "--stage", stage, "--out", str(tmp_path), *options, *more)
        assert done.returncode == 0, done.stderr
    model = Nowcaster.load(tmp_path)
    assert model.frame_size == (128, 128)
    assert model.quantity == "rainfall_rate"
    latents = model.encode(torch.rand(2, 4, 128, 128))
    assert torch.isfinite(latents).all()


def test_a_killed_training_ends_like_one_that_was_not(
    run_here: Run, one_thread: None, tiny_store: Path, tiny_model: Path, tmp_path: Path
) -> None:
    options = ["--iterations", "9", "--checkpoint_every", "2", "--teacher", "ddim", "--teacher_steps", "3"]
    options += ["--steps", "3"]
    whole = run_here("apps.nowcast.train", *common(tiny_store, tiny_model, tmp_path / "whole"), *options)
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "tests/dying.py", "run/checkpoint.pt", "2", "apps.nowcast.train"]
    command += [*common(tiny_store, tiny_model, tmp_path / "killed"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "killed/run/checkpoint.pt").exists()
    resumed = run_here("apps.nowcast.train", *common(tiny_store, tiny_model, tmp_path / "killed"), *options)
    assert resumed.returncode == 0, resumed.stderr
    one, other = (load_file(tmp_path / name / "solver.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_two_processes_train_one_solver(run_cli: Run, tiny_store: Path, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric", reason="needs spanlift[distributed]")
    pytest.importorskip("tensorboard", reason="needs spanlift[tensorboard]")
    how = ["--devices", "2", "--activation_checkpointing", "--tensorboard"]
    options = ["--supervision", "target", "--loss", "mse=1", "--iterations", "2", *how]
    done = run_cli("apps.nowcast.train", *common(tiny_store, tiny_model, tmp_path / "s"), *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training windows of 13 frames") == done.stderr.count("wrote ") == 1
    assert core.load(tmp_path / "s").card.extra["command"].keys().isdisjoint({"devices", "tensorboard"})
    assert len((tmp_path / "s/run/log.jsonl").read_text().splitlines()) == 2
    assert list((tmp_path / "s/run/tensorboard").iterdir())


@pytest.mark.parametrize("stage", ["diffusion", "alignment"])
def test_latents_of_another_size_are_told_before_they_are_encoded(
    run_here: Run, tiny_store: Path, tiny_model: Path, tmp_path: Path, stage: str
) -> None:
    places = ["--data", str(tiny_store), "--model", str(tiny_model), "--out", str(tmp_path / "out")]
    done = run_here("apps.nowcast.train", "--stage", stage, *places)
    assert done.returncode == 2
    assert "of (16, 16, 16) for --size mini, got (8, 8, 3); choose another" in done.stderr
    assert not (tmp_path / "out").exists()


def test_another_run_in_the_same_folder_is_refused(
    run_here: Run, tiny_store: Path, tiny_model: Path, tmp_path: Path
) -> None:
    options = ["--supervision", "target", "--loss", "mse=1", "--iterations", "1"]
    assert run_here("apps.nowcast.train", *common(tiny_store, tiny_model, tmp_path), *options).returncode == 0
    before = (tmp_path / "solver.safetensors").read_bytes()
    again = run_here("apps.nowcast.train", *common(tiny_store, tiny_model, tmp_path), *options, "--seed", "5")
    assert again.returncode == 2
    assert "another configuration" in again.stderr
    assert (tmp_path / "solver.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loss", "beauty=1"], "--loss terms among"),
        (["--loss", "mse=much"], "weight"),
        (["--loss", ""], "--loss terms among"),
        (["--loss", "crps"], "--members of 2 or more and --supervision target for the loss term crps, got 1"),
        (["--iterations", "0"], "--iterations of at least 1"),
        (["--learning_rate", "-1"], "--learning_rate above 0"),
        (["--device", "quantum"], "a device of this machine"),
        (["--data", "nowhere.zarr"], "is not there"),
        (["--model", "nowhere"], "no such file"),
        (["--kernel", "4"], "kernel"),
    ],
)
def test_mistakes_are_told_in_one_line(
    run_here: Run, tiny_store: Path, tiny_model: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    base = common(tiny_store, tiny_model, tmp_path / "s")
    done = run_here("apps.nowcast.train", *base, "--teacher", "ddim", "--teacher_steps", "2", *options)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("python -m apps.nowcast.train: ")
    assert message in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s/solver.safetensors").exists()
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
