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
from apps.nowcast.stages.latents import Pair, choose_pairs, encode_pairs
from core.fitting import FitConfig
from core.operators import Corrected, ResidualConfig, spanlift
from core.supervision import Example, Teacher, draw
from core.training import train_solver
from data_tools.cli import progress_bar
from data_tools.progress import Report


@dataclass(frozen=True, slots=True)
class SolverStage:
    """What the solver stage is run with; see the options of `apps.nowcast.train`."""

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


def build_corrected(stage: SolverStage, nowcaster: Nowcaster) -> Corrected:
    """The untrained solver: equal to its base."""
    channels, frames, _, _ = nowcaster.latent_shape
    config = ResidualConfig(
        channels=channels,
        dimensions=3,
        width=stage.width,
        kernel=stage.kernel,
        condition_channels=channels * nowcaster.context_frames,
        frames=frames,
        steps=stage.steps,
    )
    return spanlift(build_base(stage.base, nowcaster.schedule), config, nowcaster.schedule)


class PairSource:
    """Context latents, noise and observed frames by key `pair number/member`."""

    def __init__(
        self, nowcaster: Nowcaster, windows: Windows, pairs: Sequence[Pair], folder: Path, seed: int, device: str
    ) -> None:
        self.nowcaster, self.windows, self.pairs, self.seed, self.device = nowcaster, windows, pairs, seed, device
        self._latents = encode_pairs(nowcaster.codec, windows, pairs, folder / "latents", device)

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


def train_solver_stage(stage: SolverStage, nowcaster: Nowcaster, windows: Windows, out: Path, card: dict) -> Path:
    """Train an operator and write `out/solver.safetensors`; returns its path."""
    device = str(next(nowcaster.parameters()).device)
    members = 1 if stage.supervision == "teacher" else stage.members
    loss = parse_loss(stage.loss or DEFAULT_LOSS[stage.supervision], nowcaster, members)
    torch.manual_seed(stage.seed)  # initial weights
    solver = build_corrected(stage, nowcaster).to(device)
    pairs = choose_pairs(windows, stage.variants, stage.seed, stage.pairs)
    source = PairSource(nowcaster, windows, pairs, out, stage.seed, device)
    grid = nowcaster.grid(stage.steps)
    examples = (
        _from_teacher(stage, source, out) if stage.supervision == "teacher" else partial(_from_data, stage, source)
    )
    identity = {
        "stage": stage,
        "model": nowcaster.identity,
        "data": windows.fingerprint,
        "loss": loss.name,
        "precision": nowcaster.precision,
    }
    with Report(f"SpanLift ({stage.supervision})", stage.fitting.iterations) as report:
        train_solver(
            solver,
            grid,
            examples,
            lambda condition: nowcaster.field(condition),  # type: ignore[arg-type]
            loss,
            stage.fitting,
            out / "run",
            frozen=[nowcaster, *loss.networks],
            identity=identity,
            report=report,
        )
    return core.save(
        out / "solver.safetensors",
        solver,
        grid=grid,
        field_identity=nowcaster.identity,
        supervision=stage.supervision,
        loss=loss.name,
        extra=card,
    )


def _from_teacher(stage: SolverStage, source: PairSource, out: Path):
    nowcaster = source.nowcaster
    teacher = Teacher(
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
    keys = [f"{pair}/0" for pair in range(len(source.pairs))]
    with progress_bar() as bar:
        task = bar.add_task(f"teacher, {stage.teacher_steps} steps", total=len(teacher.missing(keys)), note="")
        teacher.fill(keys, source.start, batch=8, report=lambda done, _: bar.update(task, completed=done))

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
