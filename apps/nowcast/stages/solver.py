"""Third stage: a SpanLift operator on the frozen model, supervised by a many-step teacher or by the observed future."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

import core
from apps.nowcast.data import Windows, dihedral, member_seed
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.solvers import build_base
from apps.nowcast.stages.endpoints import DEFAULT_LOSS, parse_loss
from apps.nowcast.stages.execution import Execution
from apps.nowcast.stages.latents import Pair, choose_pairs, encode_pairs
from apps.nowcast.step_counts import StepRange, draw_count
from core.fitting import FitConfig
from core.operators import Corrected, ResidualConfig, spanlift
from core.supervision import Example, Teacher, draw
from core.training import train_solver
from data_tools.cli import progress_bar


@dataclass(frozen=True, slots=True)
class SolverStage:
    """What the solver stage is run with; see the options of `apps.nowcast.train`.

    `counts` is the range of steps of one operator for all of them, in place of `steps`.
    """

    supervision: Literal["teacher", "target"]
    fitting: FitConfig
    batch: int
    members: int
    seed: int
    steps: int
    base: str
    width: int
    kernel: int
    loss: str | None
    teacher: str
    teacher_steps: int
    pairs: int
    variants: int
    counts: StepRange | None = None
    condition: Literal["on", "off"] = "on"

    def grid(self, nowcaster: Nowcaster) -> Tensor:
        """The grid of the training, the longest one where it is of many."""
        return nowcaster.grid(self.counts[1] if self.counts else self.steps)


def build_corrected(stage: SolverStage, nowcaster: Nowcaster) -> Corrected:
    """The untrained solver: equal to its base."""
    channels, frames, _, _ = nowcaster.latent_shape
    conditioned = stage.condition == "on"
    config = ResidualConfig(
        channels=channels,
        dimensions=3,
        width=stage.width,
        kernel=stage.kernel,
        condition_channels=channels * nowcaster.context_frames if conditioned else 0,
        frames=frames if conditioned else 0,
        steps=None if stage.counts else stage.steps,
        counts=stage.counts,
    )
    return spanlift(build_base(stage.base, nowcaster.schedule), config, nowcaster.schedule)


class PairSource:
    """Context latents, noise and observed frames by key `pair number/member`."""

    def __init__(
        self,
        nowcaster: Nowcaster,
        windows: Windows,
        pairs: Sequence[Pair],
        folder: Path,
        seed: int,
        execution: Execution,
    ) -> None:
        self.nowcaster, self.windows, self.pairs, self.seed = nowcaster, windows, pairs, seed
        self.device = execution.device
        self._latents = encode_pairs(
            nowcaster.codec, windows, pairs, folder / "latents", execution.device, execution.fabric
        )

    def context(self, keys: Sequence[str]) -> Tensor:
        """Context latents (keys, C, context_frames, h, w)."""
        rows = [int(key.split("/")[0]) for key in keys]
        return self._latents[rows][:, :, : self.nowcaster.context_frames].float().to(self.device)

    def noise(self, keys: Sequence[str]) -> Tensor:
        seeds = []
        for key in keys:
            pair, member = (int(part) for part in key.split("/"))
            index, element = self.pairs[pair]
            seeds.append(member_seed(self.seed, f"{self.windows.ids[index]}/{element}", member))
        return self.nowcaster.noise(seeds)

    def future(self, keys: Sequence[str]) -> Tensor:
        """Observed frames after the context in [0, 1], (keys, target_frames, H, W); NaN where missing."""
        frames = []
        for key in keys:
            index, element = self.pairs[int(key.split("/")[0])]
            observed = self.windows.quantity.encode(self.windows.frames[index, self.nowcaster.context_frames :])
            frames.append(dihedral(torch.from_numpy(observed), element))
        return torch.stack(frames).to(self.device)

    def start(self, keys: Sequence[str]) -> tuple[core.VelocityField, Tensor]:
        """What a teacher starts from."""
        return self.nowcaster.field(self.context(keys)), self.noise(keys)


def train_solver_stage(
    stage: SolverStage, nowcaster: Nowcaster, windows: Windows, out: Path, execution: Execution, card: dict
) -> Path:
    """Train an operator and write `out/solver.safetensors`; returns its path.

    Raises:
        ValueError: the execution cuts parameters over processes, of which an operator has too few.
    """
    if execution.sharded:
        raise ValueError("expected the strategy ddp for a solver, got fsdp; its few parameters fit everywhere")
    device = execution.device
    nowcaster = nowcaster.to(device)
    execution.lighten(nowcaster)
    members = 1 if stage.supervision == "teacher" else stage.members
    loss = parse_loss(DEFAULT_LOSS[stage.supervision] if stage.loss is None else stage.loss, nowcaster, members)
    torch.manual_seed(stage.seed)  # initial weights
    solver = build_corrected(stage, nowcaster).to(device)
    pairs = choose_pairs(windows, stage.variants, stage.seed, stage.pairs)
    source = PairSource(nowcaster, windows, pairs, out, stage.seed, execution)
    grid = stage.grid(nowcaster)
    examples = (
        _from_teacher(stage, source, out, execution)
        if stage.supervision == "teacher"
        else partial(_from_data, stage, source)
    )
    identity = {
        "stage": stage,
        "model": nowcaster.identity,
        "data": windows.fingerprint,
        "loss": loss.name,
        "precision": nowcaster.precision,
    }
    with execution.reports(f"SpanLift ({stage.supervision})", stage.fitting, out / "run") as report:
        train_solver(
            solver,
            partial(_drawn_grid, stage, nowcaster) if stage.counts else grid,
            examples,
            lambda condition: nowcaster.field(condition),  # type: ignore[arg-type]
            loss,
            stage.fitting,
            out / "run",
            frozen=[nowcaster, *loss.networks],
            identity=identity,
            report=report,
            fabric=execution.fabric,
            passes=execution.passes,
        )
    path = out / "solver.safetensors"
    if execution.leads:
        core.save(
            path,
            solver,
            grid=grid,
            field_identity=nowcaster.identity,
            supervision=stage.supervision,
            loss=loss.name,
            extra=card,
        )
    execution.fabric.barrier()  # none ends before the one that writes
    return path


def _drawn_grid(stage: SolverStage, nowcaster: Nowcaster, iteration: int) -> Tensor:
    assert stage.counts is not None
    return nowcaster.grid(draw_count(stage.counts, iteration, stage.seed))


def _from_teacher(stage: SolverStage, source: PairSource, out: Path, execution: Execution):
    nowcaster = source.nowcaster
    keys = [f"{pair}/0" for pair in range(len(source.pairs))]

    def cache() -> Teacher:
        return Teacher(
            build_base(stage.teacher, nowcaster.schedule),
            nowcaster.grid(stage.teacher_steps),
            out / "teacher",
            {
                "model": nowcaster.identity,
                "data": source.windows.fingerprint,
                "pairs": source.pairs,
                "seed": stage.seed,
                "precision": nowcaster.precision,
            },
        )

    if execution.leads:
        teacher = cache()
        with progress_bar() as bar:
            task = bar.add_task(f"teacher, {stage.teacher_steps} steps", total=len(teacher.missing(keys)), note="")
            teacher.fill(keys, source.start, batch=8, report=lambda done, _: bar.update(task, completed=done))
    execution.fabric.barrier()  # the others read what the first has computed
    teacher = cache()

    def examples(iteration: int) -> Example:
        drawn = draw(keys, stage.batch, iteration, stage.seed)
        endpoint = teacher.endpoints(drawn).float().to(source.device)
        return Example(source.noise(drawn), source.context(drawn), endpoint)

    return examples


def _from_data(stage: SolverStage, source: PairSource, iteration: int) -> Example:
    """Members of a window lie side by side; their noise is new in every iteration."""
    pairs = draw([str(pair) for pair in range(len(source.pairs))], stage.batch, iteration, stage.seed)
    first = iteration * stage.members
    keys = [f"{pair}/{first + member}" for pair in pairs for member in range(stage.members)]
    return Example(source.noise(keys), source.context(keys), source.future(pairs))
