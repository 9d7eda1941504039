"""A learned solver trained in one call, and measured: what the studies repeat. Nothing stays on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from apps.solvers.fields import FIELDS
from apps.solvers.methods import SIGMA_MAX, SIGMA_MIN
from apps.solvers.studies.problems import EXACT
from core.alternating import train_alternating
from core.fields import DenoiserField
from core.fitting import FitConfig
from core.relaxation import NoisePool, Relaxation, train_relaxed
from core.solvers.learned.s4s_alt import S4SAlternating
from core.state import Solver, VelocityField, integrate
from core.supervision import Example, draw
from core.training import EndpointLoss, Run, RunToEnd, train_solver

Report = Callable[[int, Mapping[str, float]], None]
Trained = TypeVar("Trained", bound=nn.Module)


class Task(Protocol):
    """A field with pairs of noise and endpoint: `apps.solvers.cells.Bench` is one.

    Attributes:
        field: the frozen velocity field.
        pool: pairs to train on, x_T and endpoint (P, *space).
        held_out: pairs to measure on, (Q, *space), never trained on.
    """

    @property
    def field(self) -> VelocityField: ...
    @property
    def pool(self) -> Example: ...
    @property
    def held_out(self) -> Example: ...


@dataclass(frozen=True, eq=False)
class Exact:
    """A task with exact endpoints; see `Task`."""

    field: VelocityField
    pool: Example
    held_out: Example


def exact_task(name: str, pairs: int = 400, held_out: int = 512, seed: int = 0) -> Exact:
    """A built-in mixture with endpoints of many small steps, from sigma 80 to 0.002.

    Args:
        name: of `apps.solvers.fields.FIELDS`.
        pairs, held_out: how many of each.
        seed: of their noise.
    """
    mixture = FIELDS[name](None)
    field = DenoiserField(mixture.data)  # the same field, without the noise that EDM's velocity does not need
    shape = (pairs + held_out, *mixture.means.shape[1:])
    x_T = SIGMA_MAX * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    end = EXACT.endpoints(field, x_T, (SIGMA_MAX, SIGMA_MIN))
    return Exact(field, Example(x_T[:pairs], None, end[:pairs]), Example(x_T[pairs:], None, end[pairs:]))


@dataclass(frozen=True)
class Training:
    """How a solver is trained.

    Attributes:
        iterations: optimiser steps.
        rate: peak learning rate of Adam.
        batch: pairs an iteration.
        seed: of their order.
        pairs: how many of the pool are used, the first ones; None for all.
        afs: analytic first step.
    """

    iterations: int = 300
    rate: float = 3e-2
    batch: int = 20
    seed: int = 0
    pairs: int | None = None
    afs: bool = False

    @property
    def config(self) -> FitConfig:
        return FitConfig(self.iterations, self.rate, checkpoint_every=self.iterations, log_every=self.iterations)

    @property
    def run(self) -> Run:
        return RunToEnd(self.afs, rematerialise=False)  # states here are small: to keep them is quicker


def squared(end: Tensor, example: Example) -> Tensor:
    """Mean squared distance to the endpoints of the example, the loss of the studies."""
    return (end - example.endpoint).square().mean()


def per_sample(difference: Tensor) -> Tensor:
    """Root mean square of each sample, (B,)."""
    return difference.flatten(1).square().mean(1).sqrt()


def distance(end: Tensor, example: Example) -> Tensor:
    """Root mean square distance to the endpoint of each sample, mean over samples: what `errors` measures."""
    return per_sample(end - example.endpoint).mean()


def fit(
    solver: Trained,
    task: Task,
    grid: Tensor,
    training: Training | None = None,
    *,
    pairs: Example | None = None,
    loss: EndpointLoss = squared,
    run: Run | None = None,
    report: Report | None = None,
) -> Trained:
    """Fit `solver` to endpoints by endpoint supervision, in place.

    Args:
        solver: a learned solver for `grid`.
        task: field and pairs.
        grid: (steps + 1,).
        training: see `Training`.
        pairs: other pairs than the pool of the task, e.g. endpoints of another teacher.
        loss: of the student's endpoints and the example.
        run: what the loss compares in place of endpoints, e.g. `core.RunAlongPath`.
        report: called with (iteration, logged values) after each iteration, when the parameters have moved.
    """
    training = training or Training()
    chosen = first(pairs or task.pool, training.pairs)
    names = [str(row) for row in range(len(chosen.x_T))]

    def examples(iteration: int) -> Example:
        rows = torch.tensor([int(name) for name in draw(names, training.batch, iteration, training.seed)])
        return Example(chosen.x_T[rows], None, chosen.endpoint[rows])

    with TemporaryDirectory() as folder:
        train_solver(
            solver, grid, examples, lambda condition: task.field, loss, training.config, Path(folder),
            run=training.run if run is None else run, report=report,
        )  # fmt: skip
    return solver


def fit_relaxed(
    solver: Trained,
    task: Task,
    grid: Tensor,
    training: Training | None = None,
    *,
    constant: float | None = None,
    pool: NoisePool | None = None,
    loss: EndpointLoss = squared,
    report: Report | None = None,
) -> Trained:
    """Fit `solver` with S4S's relaxed objective (arXiv 2502.17423, algorithm 1), in place.

    Args:
        constant: c of the radius, see `core.Relaxation`; 0 is the plain objective.
        pool: the noises x'_T of the first pairs, to look at afterwards; they have a radius of their own.
        solver, task, grid, training, loss, report: see `fit`.
    """
    training = training or Training()
    with TemporaryDirectory() as folder:
        train_relaxed(
            solver, grid, first(task.pool, training.pairs), lambda condition: task.field, loss, training.config,
            Path(folder), relaxation=Relaxation(constant, batch=training.batch, seed=training.seed),
            run=training.run, report=report, pool=pool,
        )  # fmt: skip
    return solver


def fit_alternating(
    solver: S4SAlternating,
    task: Task,
    grid: Tensor,
    training: Training | None = None,
    *,
    rounds: int = 8,
    times_rate: float | None = None,
    constant: float | None = None,
    loss: EndpointLoss = squared,
) -> S4SAlternating:
    """Fit coefficients and times in turns (the same, algorithm 2), in place; `training.iterations` are those of all
    phases together.

    Args:
        rounds: K; each is a phase of coefficients and one of times.
        times_rate: learning rate of the times; that of the coefficients where not given.
        solver, task, grid, training, constant, loss: see `fit_relaxed`.
    """
    training = training or Training()
    phase = replace(training, iterations=max(1, training.iterations // (2 * rounds)))
    times = phase if times_rate is None else replace(phase, rate=times_rate)
    with TemporaryDirectory() as folder:
        return train_alternating(
            solver, grid, first(task.pool, training.pairs), lambda condition: task.field, loss, phase.config,
            Path(folder), times_config=times.config, rounds=rounds,
            relaxation=Relaxation(constant, batch=training.batch, seed=training.seed), run=training.run,
        )  # fmt: skip


@torch.no_grad()
def endpoints(solver: Solver, task: Task, grid: Tensor, afs: bool = False, pairs: Example | None = None) -> Tensor:
    """Where the solver takes the noise (Q, *space) of the pairs; the held-out one where no others are given."""
    return integrate(task.field, solver, (pairs or task.held_out).x_T, grid, afs).x


def errors(solver: Solver, task: Task, grid: Tensor, afs: bool = False, pairs: Example | None = None) -> Tensor:
    """Root mean square over each sample of its endpoint's distance to that of the pair, (Q,); of held-out pairs where
    no others are given."""
    pairs = pairs or task.held_out
    return per_sample(endpoints(solver, task, grid, afs, pairs) - pairs.endpoint)


def first(pairs: Example, count: int | None) -> Example:
    """So many of the pairs, all where no number is given."""
    return pairs if count is None else Example(pairs.x_T[:count], None, pairs.endpoint[:count])
