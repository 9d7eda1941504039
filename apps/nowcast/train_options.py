"""Options of `python -m apps.nowcast.train`, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from apps.nowcast.nowcaster import Precision
from apps.nowcast.solvers import DEFAULT_BASE, TEACHER_SOLVER, TEACHER_STEPS
from apps.nowcast.stages.autoencoder import AutoencoderStage
from apps.nowcast.stages.solver import SolverStage
from apps.nowcast.step_counts import parse_range
from apps.processes import check_devices
from core.fitting import FitConfig
from data_tools.cli import UserError, check_folder
from data_tools.progress import check_tensorboard

CONFIGS = Path(__file__).parent / "configs"
"""Recipes of the papers, for `--config NAME`."""

Stage = Literal["solver", "autoencoder", "diffusion", "alignment"]

DEFAULTS: dict[Stage, tuple[FitConfig, int]] = {
    "autoencoder": (FitConfig(iterations=3000, learning_rate=2e-3, betas=(0.9, 0.99), ema_decay=0.995), 24),
    "diffusion": (FitConfig(iterations=3000, learning_rate=1e-3, betas=(0.9, 0.99), ema_decay=0.995), 16),
    "alignment": (FitConfig(iterations=1500, learning_rate=1e-3, ema_decay=0.995), 32),
    "solver": (FitConfig(iterations=400, learning_rate=3e-3, ema_decay=0.98, checkpoint_every=20), 4),
}
"""Fitting and batch size of each stage for the `mini` model."""

FITTED = ("iterations", "learning_rate", "warmup", "final_rate", "weight_decay", "ema_decay", "checkpoint_every")
"""Options that stand for fields of `FitConfig`."""

OF_SOLVERS = (
    "supervision", "steps", "nfe", "base", "width", "kernel", "condition", "members", "loss", "teacher",
    "teacher_steps", "pairs",
)  # fmt: skip
"""Options that a stage of the model does not read."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of the command.

    Attributes:
        stage: solver trains a SpanLift operator on a frozen model; autoencoder, then diffusion, train the model itself;
            alignment trains the network that reads mean intensities, which aligned sampling needs.
        supervision: where the solver's endpoints come from: many-step rollouts of the model, or the observed future.
        data: comma-separated event stores, and `storms` for synthetic storms made on the spot.
        windows: file of data_tools.splits; its train windows are taken, overlapping as they may.
        events: at most so many windows of each source; all by default, 96 of `storms`.
        model: folder of the frozen model; the shipped one by default. The diffusion and alignment stages read their
            autoencoder there, by default in the folder to write to.
        out: folder to write to. A run that was stopped goes on when started again with the same options.
        size: of the networks that the stages of the model train.
        iterations: optimiser steps; each stage has its default.
        batch: windows per step, over all devices and passes; each stage has its default.
        learning_rate: peak rate; each stage has its default.
        warmup: share of the iterations over which the rate rises; it falls by a cosine after that.
        final_rate: share of the peak rate that the cosine ends at.
        beta_1: Adam's averaging constant of gradients; each stage has its default.
        beta_2: that of their squares.
        weight_decay: decoupled weight decay; 0 gives Adam, above is AdamW.
        ema_decay: of the average of the weights that is written; 0 writes the last ones.
        checkpoint_every: iterations between checkpoints, from which a stopped run goes on.
        seed: of weights, draws and noise.
        steps: steps of the solver that is trained.
        nfe: FIRST:LAST, such as 2:10, trains one operator for all these numbers of steps, in place of --steps.
        base: solver that the operator corrects; by default what suits the supervision: ipndm, which is nearer to a
            teacher, or ddim, whose five steps score better against the observed future.
        width: hidden channels of the operator.
        kernel: spatial support of the operator; 1 is pointwise.
        condition: whether the operator reads the context frames too.
        members: ensemble members per window and step that the ensemble losses of target supervision compare.
        loss: weighted terms of the endpoint loss, `name=weight,...`; by default what suits the supervision. crps alone
            is the fair CRPS of pixels and of max-pooled frames, which keeps the spread of the ensemble.
        teacher: solver of the teacher, where one supervises.
        teacher_steps: its steps.
        pairs: how many windows, each under one symmetry of the square, a solver is trained on at most.
        variants: symmetries of each window that the stages on latents know.
        device: cpu, cuda, cuda:1, ...
        devices: so many processes share each batch, one device each.
        strategy: ddp: every device holds the model; fsdp: weights, gradients and optimiser are cut over the devices.
        accumulate: in how many passes each device computes its share of a batch; more take less memory.
        activation_checkpointing: blocks of the networks compute their activations twice instead of keeping them.
        tensorboard: write the log for TensorBoard too, beside log.jsonl.
        precision: of the networks that are trained, or of the frozen network of a solver; the state, the losses
            and the optimiser stay in float32.
    """

    stage: Stage = "solver"
    supervision: Literal["teacher", "target"] = "teacher"
    data: str = "storms"
    windows: str | None = None
    events: int | None = None
    model: str | None = None
    out: str = "out/train"
    size: Literal["mini", "prediff"] = "mini"
    iterations: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    warmup: float | None = None
    final_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    weight_decay: float | None = None
    ema_decay: float | None = None
    checkpoint_every: int | None = None
    seed: int = 0
    steps: int = 5
    nfe: str | None = None
    base: Literal["ddim", "ipndm", "adams-bashforth"] | None = None
    width: int = 32
    kernel: Literal[1, 3, 5, 7] = 3
    condition: Literal["on", "off"] = "on"
    members: int = 2
    loss: str | None = None
    teacher: Literal["ddim", "ipndm", "adams-bashforth", "heun"] = TEACHER_SOLVER
    teacher_steps: int = TEACHER_STEPS
    pairs: int = 512
    variants: int = 2
    device: str = "cpu"
    devices: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    accumulate: int = 1
    activation_checkpointing: bool = False
    tensorboard: bool = False
    precision: Precision = "float32"

    def fitting(self) -> FitConfig:
        config, _ = DEFAULTS[self.stage]
        given = {name: getattr(self, name) for name in FITTED if getattr(self, name) is not None}
        first, second = config.betas
        betas = (first if self.beta_1 is None else self.beta_1, second if self.beta_2 is None else self.beta_2)
        return replace(config, betas=betas, **given)

    def batch_size(self) -> int:
        return DEFAULTS[self.stage][1] if self.batch is None else self.batch

    def solver_stage(self) -> SolverStage:
        """The training of a solver that the options ask for."""
        return SolverStage(
            supervision=self.supervision,
            fitting=self.fitting(),
            batch=self.batch_size(),
            members=self.members,
            seed=self.seed,
            steps=self.steps,
            base=self.base or DEFAULT_BASE[self.supervision],
            width=self.width,
            kernel=self.kernel,
            loss=self.loss,
            teacher=self.teacher,
            teacher_steps=self.teacher_steps,
            pairs=self.pairs,
            variants=self.variants,
            counts=None if self.nfe is None else parse_range(self.nfe),
            condition=self.condition,
        )


def check(options: TrainOptions) -> None:
    """Raise UserError for what is wrong without looking at any data."""
    counts = ("iterations", "batch", "events", "steps", "members", "pairs", "variants", "teacher_steps", "width")
    for name in (*counts, "checkpoint_every", "accumulate"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"expected --{name} of at least 1, got {value}")
    if options.learning_rate is not None and not 0 < options.learning_rate < float("inf"):
        raise UserError(f"expected --learning_rate above 0, got {options.learning_rate}")
    if options.weight_decay is not None and not 0 <= options.weight_decay < float("inf"):
        raise UserError(f"expected --weight_decay of at least 0, got {options.weight_decay}")
    for name in ("warmup", "final_rate", "beta_1", "beta_2", "ema_decay"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < 1:
            raise UserError(f"expected --{name} of at least 0 and below 1, got {value}")
    _check_use(options)
    check_folder(Path(options.out))
    if options.nfe is not None:
        parse_range(options.nfe)
    check_devices(options.device, options.devices)
    _check_sharing(options)
    if options.tensorboard:
        check_tensorboard()


def _check_use(options: TrainOptions) -> None:
    """Refuse what would be read by another training than the one asked for."""
    if options.stage == "solver":
        of_another = {"size": "a stage of the model"}
        if options.supervision == "teacher":
            of_another["members"] = "--supervision target"
        else:
            of_another |= dict.fromkeys(("teacher", "teacher_steps"), "--supervision teacher")
        if options.nfe is not None:
            of_another["steps"] = "no --nfe"
    else:
        of_another = dict.fromkeys(OF_SOLVERS, "--stage solver")
        if options.stage == "autoencoder":
            of_another |= dict.fromkeys(("model", "variants"), "a later stage")
    for name, use in of_another.items():
        value = getattr(options, name)
        if value != getattr(TrainOptions, name):  # its default
            raise UserError(
                f"expected --{name} with {use} alone, got --{name} {value} with --stage {options.stage} "
                f"--supervision {options.supervision}; leave it out"
            )


def _check_sharing(options: TrainOptions) -> None:
    """Refuse a batch that cannot be shared, and what would be gained by cutting little or over one device."""
    portions, batch = options.devices * options.accumulate, options.batch_size()
    rows = AutoencoderStage.whole_frames_of(batch) if options.stage == "autoencoder" else batch
    if rows < portions:
        needed = portions * 4 if options.stage == "autoencoder" else portions
        raise UserError(
            f"expected --batch of at least {needed} for {options.devices} devices and {options.accumulate} passes, "
            f"got {batch}; every pass needs a row"
        )
    if options.strategy == "fsdp" and (options.stage == "solver" or options.devices < 2):
        raise UserError(
            "expected --strategy fsdp with --devices of 2 or more and a stage of the model, got "
            f"--stage {options.stage} --devices {options.devices}; leave it out"
        )
