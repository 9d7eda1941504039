"""`python -m apps.nowcast.train`: train a SpanLift solver on a frozen nowcasting model, or a stage of the model."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from apps.nowcast.data import Windows, load_windows
from apps.nowcast.model import AutoencoderConfig, UNetConfig
from apps.nowcast.nowcaster import Nowcaster, Precision, check_device, load_codec
from apps.nowcast.solvers import DEFAULT_BASE, TEACHER_SOLVER, TEACHER_STEPS
from apps.nowcast.stages.autoencoder import AutoencoderStage, train_autoencoder
from apps.nowcast.stages.diffusion import DiffusionStage, train_diffusion
from apps.nowcast.stages.solver import SolverStage, train_solver_stage
from core.fitting import FitConfig
from data_tools.cli import UserError, console, run

Stage = Literal["solver", "autoencoder", "diffusion"]

DEFAULTS: dict[Stage, tuple[FitConfig, int]] = {
    "autoencoder": (FitConfig(iterations=3000, learning_rate=2e-3, betas=(0.9, 0.99), ema_decay=0.995), 24),
    "diffusion": (FitConfig(iterations=3000, learning_rate=1e-3, betas=(0.9, 0.99), ema_decay=0.995), 16),
    "solver": (FitConfig(iterations=400, learning_rate=3e-3, ema_decay=0.98, checkpoint_every=20), 4),
}
"""Fitting and batch size of each stage for the `mini` model."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of the command.

    Attributes:
        stage: solver trains a SpanLift operator on a frozen model; autoencoder, then diffusion, train the model itself.
        supervision: where the solver's endpoints come from: many-step rollouts of the model, or the observed future.
        data: comma-separated event stores, and `storms` for synthetic storms made on the spot.
        events: at most so many windows of each source; all by default, 96 of `storms`.
        model: folder of the frozen model; the shipped one by default. The diffusion stage reads its autoencoder there.
        out: folder to write to. A run that was stopped goes on when started again with the same options.
        size: of the model that the autoencoder and diffusion stages train.
        iterations: optimiser steps; each stage has its default.
        batch: windows per step; each stage has its default.
        learning_rate: peak rate; each stage has its default.
        seed: of weights, draws and noise.
        steps: steps of the solver that is trained.
        base: solver that the operator corrects; by default what suits the supervision: ipndm, which is nearer to a
            teacher, or ddim, whose five steps score better against the observed future.
        width: hidden channels of the operator.
        kernel: spatial support of the operator; 1 is pointwise.
        members: ensemble members per window and step that the ensemble losses of target supervision compare.
        loss: weighted terms of the endpoint loss, `name=weight,...`; by default what suits the supervision.
        teacher: solver of the teacher, where one supervises.
        teacher_steps: its steps.
        pairs: how many windows, each under one symmetry of the square, a solver is trained on at most.
        variants: symmetries of each window that the diffusion and solver stages know.
        device: cpu, cuda, cuda:1, ...
        precision: of the networks that are trained, or of the frozen network of a solver; the state, the losses
            and the optimiser stay in float32.
    """

    stage: Stage = "solver"
    supervision: Literal["teacher", "target"] = "teacher"
    data: str = "storms"
    events: int | None = None
    model: str | None = None
    out: str = "out/train"
    size: Literal["mini", "prediff"] = "mini"
    iterations: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    steps: int = 5
    base: Literal["ddim", "ipndm", "adams-bashforth"] | None = None
    width: int = 32
    kernel: Literal[1, 3, 5, 7] = 3
    members: int = 2
    loss: str | None = None
    teacher: Literal["ddim", "ipndm", "adams-bashforth", "heun"] = TEACHER_SOLVER
    teacher_steps: int = TEACHER_STEPS
    pairs: int = 512
    variants: int = 2
    device: str = "cpu"
    precision: Precision = "float32"

    def fitting(self) -> FitConfig:
        config, _ = DEFAULTS[self.stage]
        if self.iterations is not None:
            config = replace(config, iterations=self.iterations)
        if self.learning_rate is not None:
            config = replace(config, learning_rate=self.learning_rate)
        return config

    def batch_size(self) -> int:
        return DEFAULTS[self.stage][1] if self.batch is None else self.batch


def main(options: TrainOptions) -> None:
    """Train the stage that the options ask for.

    Raises:
        UserError: data, model or folder are not what the stage needs.
    """
    _check(options)
    out = Path(options.out)
    try:
        if options.stage == "solver":
            path = _solver(options, out)
        else:
            path = _model(options, out)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error
    console.print(f"wrote {path}")


def _check(options: TrainOptions) -> None:
    for name in ("iterations", "batch", "events", "steps", "members", "pairs", "variants", "teacher_steps", "width"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"expected --{name} of at least 1, got {value}")
    if options.learning_rate is not None and options.learning_rate <= 0:
        raise UserError(f"expected --learning_rate above 0, got {options.learning_rate}")
    place = next(
        path for path in (Path(options.out).absolute(), *Path(options.out).absolute().parents) if path.exists()
    )
    if not place.is_dir():
        raise UserError(f"expected --out to be a folder, got the file {place}; choose another name")
    check_device(options.device)


def _model(options: TrainOptions, out: Path) -> Path:
    prediff = options.size == "prediff"
    codec_size = AutoencoderConfig.prediff() if prediff else AutoencoderConfig.mini()
    network_size = UNetConfig.prediff() if prediff else UNetConfig.mini()
    codec = None
    if options.stage == "diffusion":
        codec = load_codec((Path(options.model) if options.model else out) / "autoencoder.safetensors").to(
            options.device
        )
    windows = _windows(options, network_size.frames)
    card = _card(options, windows)
    if codec is None:
        stage = AutoencoderStage(
            codec_size, options.fitting(), options.batch_size(), options.seed, precision=options.precision
        )
        train_autoencoder(stage, windows, out, options.device, card)
        return out / "autoencoder.safetensors"
    stage = DiffusionStage(
        network_size, options.fitting(), options.batch_size(), options.seed, options.variants, options.precision
    )
    train_diffusion(stage, codec, windows, out, options.device, card)
    return out / "unet.safetensors"


def _solver(options: TrainOptions, out: Path) -> Path:
    nowcaster = Nowcaster.load(options.model, device=options.device, precision=options.precision)
    windows = _windows(options, nowcaster.context_frames + nowcaster.target_frames)
    nowcaster.check(windows)
    stage = SolverStage(
        supervision=options.supervision,
        fitting=options.fitting(),
        batch=options.batch_size(),
        members=options.members,
        seed=options.seed,
        steps=options.steps,
        base=options.base or DEFAULT_BASE[options.supervision],
        width=options.width,
        kernel=options.kernel,
        loss=options.loss,
        teacher=options.teacher,
        teacher_steps=options.teacher_steps,
        pairs=options.pairs,
        variants=options.variants,
    )
    return train_solver_stage(stage, nowcaster, windows, out, _card(options, windows))


def _windows(options: TrainOptions, length: int) -> Windows:
    windows = load_windows(options.data, "train", length, events=options.events, seed=options.seed)
    height, width = windows.frames.shape[2:]
    if height != width:  # turned windows would not fit each other
        raise UserError(f"expected square frames to train on, got {height} x {width}; ingest with one --patch")
    console.print(f"{len(windows)} training windows of {length} frames from {options.data}")
    return windows


def _card(options: TrainOptions, windows: Windows) -> dict:
    """Provenance that is written with the weights."""
    sources = {source: windows.sources.count(source) for source in sorted(set(windows.sources))}
    return {
        "command": {key: value for key, value in asdict(options).items() if key not in {"out", "model", "data"}},
        "data": {
            "windows": sources,
            "time_step_minutes": sorted(set(windows.time_step_minutes.tolist())),
            "fingerprint": windows.fingerprint,
            "split": "train",
            "quantity": windows.quantity.name,
        },
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    run(
        TrainOptions,
        main,
        prog="python -m apps.nowcast.train",
        description="Train a SpanLift solver on a frozen nowcasting model, or a stage of the model itself.",
        examples="""examples:
  python -m apps.nowcast.train --supervision target --data out/knmi.zarr --out out/solver
  python -m apps.nowcast.train --supervision teacher --teacher ipndm --teacher_steps 24 --out out/teacher
  python -m apps.nowcast.train --stage autoencoder --data out/knmi.zarr,storms --out out/model
  python -m apps.nowcast.train --stage diffusion   --data out/knmi.zarr,storms --out out/model""",
    )
