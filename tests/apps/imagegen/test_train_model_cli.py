"""`apps.imagegen.train_model` as a user runs it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apps.imagegen.data import load_images
from apps.imagegen.models.files import load_model
from apps.imagegen.train_model import TrainModelOptions, main
from data_tools.cli import run

Run = Callable[..., subprocess.CompletedProcess[str]]
SHORT = ("--iterations", "2", "--batch", "3", "--preview", "5")


def in_process(*argv: str) -> None:
    run(TrainModelOptions, main, prog="train", description="", examples="", argv=argv)


@pytest.fixture(scope="module")
def trained(run_cli: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    done = run_cli("apps.imagegen.train_model", *SHORT, "--out", str(out), "--seed", "5")
    assert done.returncode == 0, done.stderr
    return out


def test_a_model_is_trained(trained: Path) -> None:
    model = load_model(trained / "model.safetensors")
    assert (model.resolution, model.channels, model.label_dim) == (16, 1, 0)
    assert model.card["command"]["seed"] == 5
    assert model.card["stage"]["fitting"]["iterations"] == 2
    assert model.card["data"] == {
        "name": "digits (train)",
        "images": 1486,
        "fingerprint": load_images("digits").fingerprint,
    }
    with Image.open(trained / "preview.png") as picture:
        assert (picture.size, picture.mode) == ((5 * 18 - 2, 16), "L")


def test_a_finished_training_started_again_is_the_same(trained: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(trained, again)
    (again / "model.safetensors").unlink()
    in_process(*SHORT, "--out", str(again), "--seed", "5")
    one, other = load_model(trained / "model.safetensors"), load_model(again / "model.safetensors")
    assert other.identity == one.identity
    assert other.card == one.card


def test_another_run_in_the_folder_is_left_as_it_is(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    before = (trained / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        in_process(*SHORT, "--out", str(trained), "--seed", "6")
    assert stopped.value.code == 2
    assert "another configuration" in capsys.readouterr().err
    assert (trained / "model.safetensors").read_bytes() == before


def test_a_model_that_samples_no_numbers_is_kept_and_says_so(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise FloatingPointError("expected finite states, got NaN at step 2")

    again = tmp_path / "again"
    shutil.copytree(trained, again)
    monkeypatch.setattr("apps.imagegen.train_model.sample_batch", broken)
    with pytest.raises(SystemExit) as stopped:
        in_process(*SHORT, "--out", str(again), "--seed", "5")
    assert stopped.value.code == 2
    assert "NaN at step 2; " in capsys.readouterr().err.splitlines()[-1]
    assert load_model(again / "model.safetensors").identity == load_model(trained / "model.safetensors").identity


def test_weights_are_stored_in_half_precision_unless_asked_otherwise(trained: Path, tmp_path: Path) -> None:
    full_path = tmp_path / "full"
    shutil.copytree(trained, full_path)
    in_process(*SHORT, "--out", str(full_path), "--seed", "5", "--storage", "float32", "--preview", "0")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (trained, full_path)]
    assert sizes[0] < 0.52 * sizes[1]
    half, full = (load_model(folder / "model.safetensors") for folder in (trained, full_path))
    x, sigma = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 3.0])
    torch.testing.assert_close(half.network(x, sigma), full.network(x, sigma), atol=3e-3, rtol=0)


def test_two_processes_train_one_model(run_cli: Run, tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric", reason="needs spanlift[distributed]")
    done = run_cli("apps.imagegen.train_model", *SHORT, "--devices", "2", "--conditional", "--out", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    model = load_model(tmp_path / "a/model.safetensors")
    assert model.label_dim == 10
    assert model.card["command"]["devices"] == 2
    assert done.stderr.count("wrote") == 2  # the model and the picture, by one of them


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iterations", "0"], "--iterations of at least 1"),
        (["--batch", "1", "--devices", "2"], "--batch of at least 2"),
        (["--devices", "0"], "--devices of at least 1"),
        (["--learning_rate", "-1"], "--learning_rate above 0"),
        (["--learning_rate", ".inf"], "--learning_rate above 0"),
        (["--preview", "-1"], "--preview from 0"),
        (["--seed", "-1"], "--seed from 0"),
        (["--device", "quantum"], "a device of this machine"),
        (["--device", "cuda:0", "--devices", "2"], "device"),
        (["--data", "nowhere.npz"], "nothing there"),
        (["--size", "cifar10-small"], "expected images of 32 x 32 pixels, got 16 x 16"),
        (["--size", "huge"], "size"),
        (["--precision", "float8"], "precision"),
        (["--out", "pyproject.toml"], "expected --out to be a folder"),
    ],
)
def test_mistakes_are_told_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], message: str
) -> None:
    out = [] if "--out" in options else ["--out", str(tmp_path / "m")]
    with pytest.raises(SystemExit) as stopped:
        in_process(*out, *options)
    assert stopped.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("train: ")
    assert message in last
    assert not (tmp_path / "m").exists()


def test_a_folder_without_labels_makes_no_conditional_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / f"{name}.png")
    with pytest.raises(SystemExit) as stopped:
        in_process("--data", str(tmp_path), "--conditional", "--out", str(tmp_path / "m"))
    assert stopped.value.code == 2
    assert "expected labels for --conditional, got none" in capsys.readouterr().err
