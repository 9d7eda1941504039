"""Tiny trainings of every stage, on one process, on two, killed and gone on with: `python stage_runs.py` reads lines of
(run as JSON, folder), forks each, and answers with its exit status.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # torch.utils.checkpoint and core.sharding import these late: not in every fork
import torch.distributed.fsdp
from dying import Calls
from lightning_fabric import Fabric

from apps.nowcast.codec import Codec
from apps.nowcast.data import Windows
from apps.nowcast.model import AlignmentConfig, AutoencoderConfig, CuboidTransformerUNet, UNetConfig
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.stages import diffusion, latents
from apps.nowcast.stages.alignment import AlignmentStage, train_alignment
from apps.nowcast.stages.autoencoder import AutoencoderStage, train_autoencoder
from apps.nowcast.stages.diffusion import DiffusionStage, train_diffusion
from apps.nowcast.stages.execution import Execution
from apps.nowcast.stages.solver import SolverStage, train_solver_stage
from core.distributed import Portion, rows_of
from core.fitting import FitConfig
from data_tools.quantities import RAINFALL_RATE

CODEC = AutoencoderConfig(block_out_channels=(4, 8), layers_per_block=1, latent_channels=3, norm_num_groups=2)
NETWORK = UNetConfig(
    context_shape=(2, 8, 8, 3), target_shape=(3, 8, 8, 3), base_units=8, depth=(1, 1), num_heads=2, dropout=0.0
)
ALIGNMENT = AlignmentConfig(target_shape=(3, 8, 8, 3), base_units=8, num_heads=2, dropout=0.0, norm_num_groups=2)
FITTING = FitConfig(6, 2e-3, ema_decay=0.9, checkpoint_every=1, log_every=1)
FIRST = replace(FITTING, iterations=1)
"""Of runs whose gradient is looked at: that of the first iteration, of which the optimiser keeps a tenth."""
LONGEST = 200
"""Seconds after which a run that hangs is ended, and its test fails."""


@dataclass(frozen=True)
class Run:
    """One line of a test: a stage, and how it is executed."""

    stage: str
    processes: int = 1
    passes: int = 1
    rematerialise: bool = False
    sharded: bool = False
    first: bool = False
    stops_at: int | None = None
    dies_at: int | None = None
    """Number of the call, of Python's or C's functions, at which it is killed."""
    counts: bool = False
    """Whether the number of its calls is left beside the folder."""


def made_windows() -> Windows:
    draws = torch.rand(4, 5, 16, 16, generator=torch.Generator().manual_seed(1)).square() * 30
    frames = draws.numpy().astype(np.float32)
    frames[0, 1, 2, 3] = np.nan
    ids = tuple(f"event-{index}" for index in range(4))
    return Windows(frames, ids, ("made",) * 4, ids, RAINFALL_RATE, np.full(4, 5.0))


def train(run: Run, folder: Path, execution: Execution) -> None:
    """One stage, from its first iteration or from where the folder's run was killed."""
    torch.set_num_threads(1)
    latents.BLOCK_BYTES = 2048  # a pair a block
    windows = made_windows()
    fitting = FIRST if run.first else FITTING
    torch.manual_seed(7)
    codec = Codec(CODEC).eval()
    if run.stage == "autoencoder":
        stage = AutoencoderStage(CODEC, fitting, batch=16, seed=3, crop=8)
        train_autoencoder(stage, windows, folder, execution, {})
    elif run.stage == "diffusion":
        train_diffusion(DiffusionStage(NETWORK, fitting, 5, 3), codec, windows, folder, execution, {})
    elif run.stage == "alignment":
        train_alignment(AlignmentStage(ALIGNMENT, fitting, 5, 3), codec, windows, folder, execution, {})
    else:
        nowcaster = Nowcaster(codec, CuboidTransformerUNet(NETWORK))
        target = run.stage == "target"
        stage = SolverStage(
            supervision="target" if target else "teacher",
            fitting=fitting,
            batch=3,
            members=2,
            seed=3,
            steps=2,
            base="ddim",
            width=4,
            kernel=3,
            loss="crps=1,mse=0.5,latent=0.1" if target else "latent=1",
            teacher="ddim",
            teacher_steps=3,
            pairs=5,
            variants=2,
        )
        train_solver_stage(stage, nowcaster, windows, folder, execution, {})


def worker(fabric: Fabric, run: Run, folder: Path) -> None:
    execution = Execution("cpu", fabric, run.passes, run.rematerialise, run.sharded)
    if run.stops_at is not None:
        diffusion.rows_of = partial(stopping, run.stops_at * run.passes)
    with contextlib.suppress(KeyboardInterrupt):
        train(run, folder, execution)


calls = 0


def stopping(last: int, rows: int, portion: Portion) -> tuple[slice, float]:
    """`rows_of`, which every pass calls, until it has been called often enough."""
    global calls
    calls += 1
    if calls > last:
        raise KeyboardInterrupt
    return rows_of(rows, portion)


def start(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if run.processes == 1:
        calls = Calls(run.dies_at) if run.counts or run.dies_at else None
        train(run, folder, Execution(passes=run.passes, rematerialise=run.rematerialise))
        if calls:
            calls.write(folder.with_suffix(".calls"))
        return
    fabric = Fabric(accelerator="cpu", devices=run.processes, strategy="ddp_fork")
    fabric.launch(worker, run, folder)


def serve() -> None:
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        text, folder = line.rsplit(maxsplit=1)
        run = Run(**json.loads(text))
        process = os.fork()
        if process == 0:
            os.setsid()  # a kill takes the processes that it started too
            signal.alarm(LONGEST)
            try:
                start(run, Path(folder))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        status = os.waitpid(process, 0)[1]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # what it left behind
        print(status, flush=True)


if __name__ == "__main__":
    serve()
