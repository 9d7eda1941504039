"""What the options of a training stand for, and which of them cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apps import processes
from apps.nowcast.train_options import CONFIGS, TrainOptions, check
from data_tools import progress
from data_tools.cli import UserError, run
from data_tools.progress import TensorBoard


def test_each_stage_has_its_fitting_and_options_change_it() -> None:
    assert TrainOptions(stage="diffusion").fitting().betas == (0.9, 0.99)
    fitting = TrainOptions(
        stage="diffusion",
        iterations=77,
        learning_rate=0.5,
        warmup=0.2,
        final_rate=0.125,
        beta_2=0.75,
        weight_decay=0.0625,
        ema_decay=0.0,
        checkpoint_every=9,
    ).fitting()
    assert (fitting.iterations, fitting.learning_rate, fitting.warmup, fitting.final_rate) == (77, 0.5, 0.2, 0.125)
    assert (fitting.betas, fitting.weight_decay, fitting.ema_decay) == ((0.9, 0.75), 0.0625, 0.0)
    assert fitting.checkpoint_every == 9


@pytest.mark.parametrize(
    ("name", "stage", "updates"),
    [("prediff-autoencoder", "autoencoder", 131_185), ("prediff-unet", "diffusion", 629_703),
     ("prediff-alignment", "alignment", 62_970)],
)  # fmt: skip
def test_the_recipes_of_prediff_are_there_by_name(name: str, stage: str, updates: int, tmp_path: Path) -> None:
    taken: list[TrainOptions] = []
    argv = ["--config", name, "--out", str(tmp_path), "--data", "lr.zarr"]
    run(TrainOptions, taken.append, prog="train", description="", examples="", argv=argv, configs=CONFIGS)
    (options,) = taken
    check(options)
    assert (options.stage, options.size, options.data) == (stage, "prediff", "lr.zarr")
    fitting = options.fitting()
    assert fitting.iterations == updates
    assert (fitting.warmup, fitting.final_rate, fitting.clip) == (0.1, 1e-3, 1.0)
    expected = (
        (5e-6, (0.5, 0.9), 512) if stage == "autoencoder" else (1e-3, (0.9, 0.999), 64 if stage == "diffusion" else 128)
    )
    assert (fitting.learning_rate, fitting.betas, options.batch_size()) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "--accumulate of at least 1"),
        ({"devices": 0}, "--devices of at least 1"),
        ({"checkpoint_every": 0}, "--checkpoint_every of at least 1"),
        ({"learning_rate": float("nan")}, "--learning_rate above 0"),
        ({"weight_decay": -1.0}, "--weight_decay of at least 0"),
        ({"beta_2": 1.0}, "--beta_2 of at least 0 and below 1"),
        ({"ema_decay": 1.5}, "--ema_decay"),
        ({"device": "quantum"}, "a device of this machine, got quantum"),
        ({"device": "cpu:0", "devices": 2}, "leave out the number"),
        ({"device": "meta"}, "a device of this machine"),
        ({"accumulate": 3, "batch": 2}, "--batch of at least 3 for 1 devices and 3 passes, got 2"),
        ({"stage": "autoencoder", "accumulate": 3, "batch": 11}, "--batch of at least 12"),
        ({"stage": "diffusion", "devices": 2, "accumulate": 9}, "--batch of at least 18 for 2 devices"),
        ({"strategy": "fsdp", "stage": "diffusion"}, "--devices of 2 or more"),
        ({"strategy": "fsdp", "devices": 2}, "a stage of the model, got --stage solver"),
        ({"nfe": "7"}, "--nfe"),
        ({"nfe": "2:4", "steps": 4}, "--steps with no --nfe alone, got --steps 4"),
        ({"size": "prediff"}, "--size with a stage of the model alone"),
        ({"members": 4}, "--members with --supervision target alone"),
        ({"teacher_steps": 9, "supervision": "target"}, "--teacher_steps with --supervision teacher alone"),
        ({"stage": "diffusion", "nfe": "2:4"}, "--nfe with --stage solver alone, got --nfe 2:4 with --stage diffusion"),
        ({"stage": "alignment", "loss": "crps"}, "--loss with --stage solver alone"),
        ({"stage": "autoencoder", "variants": 8}, "--variants with a later stage alone"),
        ({"stage": "autoencoder", "model": "m"}, "--model with a later stage alone"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(TrainOptions(**{"out": str(tmp_path / "out"), **options}))
    assert list(tmp_path.iterdir()) == []


def test_what_can_be_is_not_refused(tmp_path: Path) -> None:
    check(TrainOptions(stage="autoencoder", accumulate=3, batch=12, out=str(tmp_path)))
    check(TrainOptions(stage="diffusion", devices=2, strategy="fsdp", accumulate=4, batch=8, out=str(tmp_path)))


def test_an_output_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--out to be a folder"):
        check(TrainOptions(out=str(tmp_path / "file/deeper")))


def test_packages_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "find_spec", lambda name: None)
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install lightning-fabric"):
        check(TrainOptions(stage="diffusion", devices=2, out=str(tmp_path)))
    with pytest.raises(UserError, match="pip install tensorboard"):
        check(TrainOptions(tensorboard=True, out=str(tmp_path)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_what_was_logged_once(tmp_path: Path) -> None:
    """A run that goes on from its checkpoint writes over what the killed one had logged after it."""
    pytest.importorskip("tensorboard", reason="needs spanlift[tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoard(tmp_path, every=2) as killed:
        for iteration in range(7):
            killed(iteration, {"loss": 100.0 + iteration, "gradient_norm": 1.0})
    with TensorBoard(tmp_path, every=2) as resumed:
        for iteration in range(4, 10):
            resumed(iteration, {"loss": 100.0 + iteration, "gradient_norm": 1.0})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(step, 100.0 + step) for step in (0, 2, 4, 6, 8)]
    assert len(events.Scalars("gradient_norm")) == 5
