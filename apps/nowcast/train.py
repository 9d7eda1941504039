"""`python -m apps.nowcast.train`: train a SpanLift solver on a frozen nowcasting model, or a stage of the model."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path

import torch

from apps.nowcast.codec import Codec
from apps.nowcast.data import Windows, listed_windows, load_windows
from apps.nowcast.model import AlignmentConfig, AutoencoderConfig, UNetConfig
from apps.nowcast.nowcaster import Nowcaster, load_codec
from apps.nowcast.stages.alignment import AlignmentStage, train_alignment
from apps.nowcast.stages.autoencoder import AutoencoderStage, train_autoencoder
from apps.nowcast.stages.diffusion import DiffusionStage, train_diffusion
from apps.nowcast.stages.execution import Execution
from apps.nowcast.stages.solver import train_solver_stage
from apps.nowcast.train_options import CONFIGS, TrainOptions, check
from apps.processes import launch
from data_tools.cli import UserError, console, run

LOCAL = {
    "out",
    "model",
    "data",
    "windows",
    "devices",
    "strategy",
    "accumulate",
    "activation_checkpointing",
    "tensorboard",
}
"""Options that say where and how a run is computed, not what it is."""

SIZES = {
    "mini": (AutoencoderConfig.mini(), UNetConfig.mini(), AlignmentConfig.mini()),
    "prediff": (AutoencoderConfig.prediff(), UNetConfig.prediff(), AlignmentConfig.prediff()),
}
WEIGHTS = {
    "autoencoder": "autoencoder.safetensors",
    "diffusion": "unet.safetensors",
    "alignment": "alignment.safetensors",
}
"""What each stage of the model writes."""


def main(options: TrainOptions) -> None:
    """Train the stage that the options ask for.

    Raises:
        UserError: data, model or folder are not what the stage needs.
    """
    check(options)
    out = Path(options.out)
    try:
        path = _solver(options, out) if options.stage == "solver" else _model(options, out)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error
    if path is not None:
        console.print(f"wrote {path}")


def _execution(options: TrainOptions, windows: Windows) -> Execution:
    """Start the processes, once all that a user can get wrong has been looked at."""
    fabric, device = launch(options.device, options.devices)
    execution = Execution(
        device,
        fabric,
        options.accumulate,
        options.activation_checkpointing,
        options.strategy == "fsdp",
        options.tensorboard,
    )
    if execution.leads:
        length = windows.frames.shape[1]
        console.print(f"{len(windows)} training windows of {length} frames from {options.data}")
    return execution


def _model(options: TrainOptions, out: Path) -> Path | None:
    """Train a stage of the model; the path of its weights in the process that wrote them."""
    autoencoder, unet, alignment = SIZES[options.size]
    codec = None
    if options.stage != "autoencoder":
        codec = load_codec((Path(options.model) if options.model else out) / "autoencoder.safetensors")
    windows = _windows(options, unet.frames)
    if codec is not None:
        _check_latents(options, codec, windows, unet)
    execution = _execution(options, windows)
    card = _card(options, windows)
    fitting, batch, seed, precision = options.fitting(), options.batch_size(), options.seed, options.precision
    if codec is None:
        stage = AutoencoderStage(autoencoder, fitting, batch, seed, precision=precision)
        train_autoencoder(stage, windows, out, execution, card)
    elif options.stage == "diffusion":
        stage = DiffusionStage(unet, fitting, batch, seed, options.variants, precision)
        train_diffusion(stage, codec.to(execution.device), windows, out, execution, card)
    else:
        stage = AlignmentStage(alignment, fitting, batch, seed, options.variants, precision)
        train_alignment(stage, codec.to(execution.device), windows, out, execution, card)
    return out / WEIGHTS[options.stage] if execution.leads else None


def _solver(options: TrainOptions, out: Path) -> Path | None:
    """Train a solver; the path of its file in the process that wrote it."""
    nowcaster = Nowcaster.load(options.model, precision=options.precision)
    windows = _windows(options, nowcaster.context_frames + nowcaster.target_frames)
    nowcaster.check(windows)
    execution = _execution(options, windows)
    path = train_solver_stage(options.solver_stage(), nowcaster, windows, out, execution, _card(options, windows))
    return path if execution.leads else None


def _windows(options: TrainOptions, length: int) -> Windows:
    listed = listed_windows(options.windows, "train")
    windows = load_windows(options.data, "train", length, events=options.events, seed=options.seed, listed=listed)
    height, width = windows.frames.shape[2:]
    if height != width:  # turned windows would not fit each other
        raise UserError(f"expected square frames to train on, got {height} x {width}; ingest with one --patch")
    return windows


def _check_latents(options: TrainOptions, codec: Codec, windows: Windows, unet: UNetConfig) -> None:
    """Refuse latents that a network cannot read, before all windows are encoded."""
    height, width = (size // codec.config.compression for size in windows.frames.shape[2:])
    latents = (height, width, codec.config.latent_channels)
    if latents != unet.target_shape[1:]:
        raise UserError(
            f"expected latents (h, w, channels) of {unet.target_shape[1:]} for --size {options.size}, got {latents}; "
            "choose another --size, --model or store"
        )


def _card(options: TrainOptions, windows: Windows) -> dict:
    """Provenance that is written with the weights."""
    sources = {source: windows.sources.count(source) for source in sorted(set(windows.sources))}
    return {
        "command": {key: value for key, value in asdict(options).items() if key not in LOCAL},
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
  python -m apps.nowcast.train --stage diffusion   --data out/knmi.zarr,storms --out out/model
  python -m apps.nowcast.train --config prediff-unet --data sevir-lr.zarr --device cuda --devices 4 --accumulate 8 \\
      --precision bfloat16 --activation_checkpointing --out out/prediff""",
        configs=CONFIGS,
    )
