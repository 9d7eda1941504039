"""The training of a solver of an image model, whichever of the learned ones it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

import core
from apps.imagegen.losses import ImageLoss
from apps.imagegen.models import FrozenModel
from apps.imagegen.solvers import Method
from apps.imagegen.stages.pairs import Pairs
from core.alternating import ROUNDS
from core.distributed import Fabric
from core.fitting import FitConfig
from core.path_supervision import Continuation, PathLoss, RunAlongPath
from core.relaxation import Relaxation
from core.state import nfe_of
from core.supervision import Example, draw
from core.training import EndpointLoss, Run
from data_tools.progress import Report

RELAXED = ("ld3", "s4s-lms", "s4s-ss", "s4s-pc")
"""Trained with the relaxed objective, as published; S4S-Alt too, in turns."""

CONTINUATIONS: Mapping[str, Continuation] = {"amed": "teacher", "amed-plugin": "detached"}
"""Where the student goes on from in path supervision, as published; from its own state, with gradients, elsewhere."""

SMALL = 5_000_000
"""Parameters of a network whose activations are kept over a rollout, which is a third faster than computing them again;
the gradient is the same."""

Objective = Literal["plain", "relaxed", "alternating"]


@dataclass(frozen=True, slots=True)
class SolverStage:
    """What the training is run with.

    Attributes:
        solver: name of the method.
        fitting: of all phases together.
        batch: pairs an iteration.
        seed: of their order.
        relaxation: constant c of the relaxed objective, see `Relaxation`; 0 is the plain one.
    """

    solver: str
    fitting: FitConfig
    batch: int
    seed: int
    relaxation: float | None = None

    @property
    def objective(self) -> Objective:
        if self.solver == "s4s-alt":
            return "alternating"
        return "relaxed" if self.solver in RELAXED and self.relaxation != 0 else "plain"


def train_stage(
    stage: SolverStage,
    method: Method,
    model: FrozenModel,
    pairs: Pairs,
    loss: ImageLoss,
    folder: Path,
    identity: Mapping[str, Any],
    fabric: Fabric,
) -> None:
    """Fit `method.solver` in place; a killed run started again ends with the same parameters.

    Raises:
        ValueError, FloatingPointError: see `core.train_solver`.
    """
    solver = method.solver
    assert isinstance(solver, nn.Module)
    path = pairs.options.supervision == "path"
    rematerialise = sum(p.numel() for p in model.network.parameters()) > SMALL
    afs = method.afs
    run: Run = core.RunToEnd(afs, rematerialise)
    compare: EndpointLoss = loss
    if path:
        run = RunAlongPath(CONTINUATIONS.get(stage.solver, "joint"), afs, rematerialise)
        compare = partial(_along, PathLoss(core.MSE(), last=loss.distance))
    frozen = [model.network, *loss.networks]
    title = f"{stage.solver} ({pairs.name})"
    identity = {
        **identity,
        "stage": stage,
        "pairs": pairs.options,
        "solver": stage.solver,
        "loss": loss.name,
        "afs": afs,
    }
    relaxation = Relaxation(stage.relaxation, batch=stage.batch, seed=stage.seed)
    if path or stage.objective == "plain":
        if stage.objective == "alternating":
            raise ValueError(
                "expected --supervision teacher or target for s4s-alt, whose objective is relaxed; got path"
            )

        def examples(iteration: int) -> Example:
            return pairs.example(draw(pairs.keys, stage.batch, iteration, stage.seed))

        with Report(title, stage.fitting.iterations) as report:
            core.train_solver(
                solver, method.grid, examples, model.field, compare, stage.fitting, folder,
                frozen=frozen, run=run, identity=identity, report=report, fabric=fabric,
            )  # fmt: skip
        return
    everything = pairs.example(pairs.keys)
    if stage.objective == "relaxed":
        with Report(title, stage.fitting.iterations) as report:
            core.train_relaxed(
                solver, method.grid, everything, model.field, compare, stage.fitting, folder, relaxation=relaxation,
                schedule=model.schedule, frozen=frozen, run=run, identity=identity, report=report, fabric=fabric,
            )  # fmt: skip
        return
    phase = replace(stage.fitting, iterations=max(1, stage.fitting.iterations // (2 * ROUNDS)))
    with Report(title, 2 * ROUNDS * phase.iterations) as report:
        core.train_alternating(
            solver, method.grid, everything, model.field, compare, phase, folder,  # pyright: ignore
            relaxation=relaxation, schedule=model.schedule, frozen=frozen, run=run, identity=identity,
            report=_counted(report), fabric=fabric,
        )  # fmt: skip


def _along(distance: PathLoss, states: Tensor, example: Example) -> Tensor:
    return distance(states, example.endpoint)


def _counted(report: Report) -> Callable[[int, Mapping[str, float]], None]:
    """Counts the iterations of all phases."""
    done = 0

    def told(iteration: int, values: Mapping[str, float]) -> None:
        nonlocal done
        report(done, values)
        done += 1

    return told


class Spent(NamedTuple):
    """What a sample costs: evaluations of the field, and network calls, of which guidance takes two an evaluation."""

    evaluations: int
    calls: int

    def __str__(self) -> str:
        more = "" if self.calls == self.evaluations else f" ({self.calls} network calls, for guidance doubles them)"
        return f"{self.evaluations} NFE{more}"


@torch.no_grad()
def held_out_errors(
    method: Method, model: FrozenModel, pairs: Pairs, loss: ImageLoss, batch: int
) -> tuple[dict[str, float], Spent]:
    """Mean loss and mean squared error of the endpoints of held-out pairs, and what a sample costs."""
    sums, rows, spent = {"loss": 0.0, "mse": 0.0}, 0, Spent(0, 0)
    for first in range(0, len(pairs.held_out), batch):
        example = pairs.example(pairs.held_out[first : first + batch])
        if pairs.options.supervision == "path":
            example = example._replace(endpoint=example.endpoint[:, -1])
        field = model.field(example.condition)
        state = core.integrate(field, method.solver, example.x_T, method.grid, method.afs)
        count, spent = len(example.endpoint), Spent(state.nfe // nfe_of(field), state.nfe)
        sums["loss"] += count * float(loss(state.x, example))
        sums["mse"] += count * float((state.x - example.endpoint).square().mean())
        rows += count
    return {name: value / rows for name, value in sums.items()}, spent
