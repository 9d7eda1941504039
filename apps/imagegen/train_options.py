"""Options of `python -m apps.imagegen.train`, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import core
from apps.imagegen.methods import DEFAULT_NFE, LEARNED_NAMES, MethodOptions, OperatorClass
from apps.imagegen.models import FrozenModel, Precision
from apps.imagegen.models.latent.flux import Flux
from apps.imagegen.models.latent.model import LatentModel
from apps.imagegen.prompt_options import PromptOptions
from apps.imagegen.stages.pairs import PairOptions, Supervision
from apps.imagegen.stages.solver import SolverStage
from core.fitting import FitConfig
from core.names import nearest
from data_tools.cli import UserError, check_folder

CONFIGS = Path(__file__).parent / "configs"
"""Recipes of the papers, for `--config NAME`."""

RATES = {
    "dyweight": 2e-2, "spanlift": 2e-3, "ld3": 3e-2, "s4s-lms": 2e-2, "s4s-pc": 2e-2, "s4s-ss": 2e-2, "s4s-alt": 1e-2,
    "bns": 1e-2, "dlms": 1e-2, "amed": 2e-2, "amed-plugin": 2e-2, "epd": 5e-2, "epd-plugin": 5e-2,
}  # fmt: skip
"""Peak learning rates where none is given: ours, but for DyWeight's, which is within the published range."""

SMALL_IMAGE, NARROW, WIDE = 16, 32, 128
"""Hidden channels of the operator: few for images of up to 16 pixels a side, SpanLift's number above."""

CHECKPOINTS = 10
"""Iterations between checkpoints."""


class TeacherOptions(NamedTuple):
    """A many-step teacher: solver, evaluations, order."""

    solver: str
    nfe: int
    order: int


PIXELS = TeacherOptions("ipndm", 35, 4)
"""DyWeight's, and that of all its pixel models (arXiv 2603.11607)."""
FLOW = TeacherOptions("ipndm", 20, 2)
"""SpanLift's for SANA: iPNDM(2M) of 20 evaluations (arXiv 2606.08672, section 5)."""
DISTILLED = TeacherOptions("euler", 28, 1)
"""DyWeight's for FLUX.1-dev, whose guidance is distilled: Euler in 28 steps (its variant for FLUX)."""


def default_teacher(model: FrozenModel) -> TeacherOptions:
    """The published teacher for a model of this kind."""
    if not isinstance(model.schedule, core.RectifiedFlow):
        return PIXELS
    return DISTILLED if isinstance(model, LatentModel) and isinstance(model.family, Flux) else FLOW


@dataclass(frozen=True)
class TrainOptions(PromptOptions):
    """Options of the command.

    Attributes:
        model: name of a shipped model, or a file of train_model or convert; a pipeline of diffusers: its folder, its
            id on the hub, or a name like sana-0.6b.
        solver: a learned solver: spanlift, dyweight, s4s-lms, s4s-alt, bns, dlms, ld3, amed, epd, ...
        base: solver that spanlift corrects (dyweight by default, which is then trained first), or that another
            learned solver starts as.
        base_path: trained solver that spanlift corrects, instead of training one.
        nfe: network calls per image; evaluations where guidance takes two for each.
        afs: analytic first step, which costs no call and makes one more step.
        order: of the base, where it has one; evaluations that S4S weighs.
        grid: times of the steps; by default Karras', or log-SNR for the exponential methods; the shifted grid of flows,
            entries of their tables for Stable Diffusion and its like.
        rho: exponent of Karras' grid.
        points: parallel evaluations of EPD.
        supervision: teacher: endpoints of many-step rollouts; path: all their states at the student's times; target:
            images of the data, paired with the noise that the model's flow leads them to.
        data: of target supervision: digits, a folder of images, or .npz archives, comma-separated.
        teacher: solver of the many-step rollouts; ipndm, euler for FLUX.
        teacher_nfe: its network calls, or evaluations; 35, 20 for flows, 28 for FLUX.
        teacher_order: its order, where it has several; 4, 2 for flows.
        teacher_grid: its grid; that of the student by default.
        loss: weighted terms `name=weight,...` of mse, features, dino, inception and lpips; by default features, and mse
            beside them for grey images. For latents mse=1,dino=0.1, or features in place of dino where DINOv2's weights
            are not at hand.
        relaxation: constant of the relaxed objective of S4S and LD3; 0 is the plain one, which the others have.
        operator: class of spanlift's operator.
        kernel: spatial support of the spatial operator.
        width: its hidden channels; 32 up to 16 x 16 pixels, else 128.
        iterations: optimiser steps.
        base_iterations: optimiser steps of a base that is trained first.
        batch: pairs per step, over all devices.
        learning_rate: peak rate; each solver has its default.
        base_learning_rate: that of a base that is trained first.
        pairs: how many to train on; more than DyWeight's 10 000 gained its authors nothing.
        held_out: further pairs that the trained solver is measured on.
        seed: of weights, noise and order.
        device: cpu, cuda, cuda:1, ...
        devices: so many processes share each batch, one device each.
        precision: of the frozen network; states, losses and the solver stay in float32.
        out: folder to write to. A run that was stopped goes on when started again with the same options.
    """

    model: str = "digits"
    solver: str = "spanlift"
    base: str | None = None
    base_path: str | None = None
    nfe: int = DEFAULT_NFE
    afs: bool = False
    order: int | None = None
    grid: str | None = None
    rho: float = 7.0
    points: int | None = None
    supervision: Supervision = "teacher"
    data: str = "digits"
    teacher: str | None = None
    teacher_nfe: int | None = None
    teacher_order: int | None = None
    teacher_grid: str | None = None
    loss: str | None = None
    relaxation: float | None = None
    operator: OperatorClass = "spatial"
    kernel: int = 3
    width: int | None = None
    iterations: int = 250
    base_iterations: int = 100
    batch: int = 16
    learning_rate: float | None = None
    base_learning_rate: float | None = None
    pairs: int = 768
    held_out: int = 64
    seed: int = 0
    device: str = "cpu"
    devices: int = 1
    precision: Precision = "float32"
    out: str = "out/image-solver"

    def method(self, model: FrozenModel) -> MethodOptions:
        """What is trained."""
        width = self.width or (NARROW if model.resolution <= SMALL_IMAGE else WIDE)
        return MethodOptions(
            self.solver, self.nfe, self.order, self.afs or None, self.grid, self.rho, base=self.base,
            base_path=self.base_path, operator=self.operator, kernel=self.kernel, width=width, points=self.points,
            seed=self.seed,
        )  # fmt: skip

    def resolved(self, model: FrozenModel) -> TrainOptions:
        """These options with what depends on the model said: its teacher."""
        solver, nfe, order = default_teacher(model)
        return replace(
            self, teacher=self.teacher or solver, teacher_nfe=self.teacher_nfe or nfe,
            teacher_order=self.teacher_order or order,
        )  # fmt: skip

    def of_pairs(self) -> PairOptions:
        """Where its endpoints come from, of options that are `resolved`."""
        assert self.teacher is not None
        assert self.teacher_nfe is not None
        assert self.teacher_order is not None
        return PairOptions(
            self.supervision, self.teacher, self.teacher_nfe, self.teacher_order, self.teacher_grid, self.rho,
            self.pairs, self.held_out, self.seed,
        )  # fmt: skip

    def stage(self) -> SolverStage:
        """How it is trained: DyWeight's schedule of the rate, and the clipping of its gradient."""
        rate = RATES[self.solver] if self.learning_rate is None else self.learning_rate
        fitting = FitConfig(self.iterations, rate, checkpoint_every=CHECKPOINTS)
        return SolverStage(self.solver, fitting, self.batch, self.seed, self.relaxation)


def base_first(options: TrainOptions) -> TrainOptions | None:
    """The options of the base that is trained first; None where there is nothing to train."""
    base = options.base or "dyweight"
    if options.solver != "spanlift" or options.base_path is not None or base not in LEARNED_NAMES:
        return None
    return replace(
        options,
        solver=base,
        base=None,
        iterations=options.base_iterations,
        learning_rate=options.base_learning_rate,
    )


def check(options: TrainOptions) -> None:
    """Raise UserError for what is wrong without looking at any file."""
    if options.solver not in LEARNED_NAMES:
        known = ", ".join(LEARNED_NAMES)
        raise UserError(
            f"expected a learned solver among {known}, got {options.solver!r}{nearest(options.solver, LEARNED_NAMES)}"
        )
    counts = (
        "nfe",
        "iterations",
        "base_iterations",
        "batch",
        "devices",
        "held_out",
        "pairs",
    )
    for name in (*counts, "teacher_nfe", "teacher_order", "width", "points", "order"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"expected --{name} of at least 1, got {value}")
    for name in ("learning_rate", "base_learning_rate", "rho"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"expected --{name} above 0, got {value}")
    if options.relaxation is not None and not 0 <= options.relaxation < float("inf"):
        raise UserError(f"expected --relaxation of at least 0, got {options.relaxation}")
    if not 0 <= options.seed < 1 << 10:
        raise UserError(f"expected --seed from 0 to 1023, got {options.seed}")
    if options.batch < options.devices:
        raise UserError(f"expected --batch of at least {options.devices}, one pair a device, got {options.batch}")
    check_folder(Path(options.out))
