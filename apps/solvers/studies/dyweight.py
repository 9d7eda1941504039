"""What each part of DyWeight is for, found by leaving it out (Zhao et al. 2026, arXiv 2603.11607: figures 4 to 6,
tables 5 and A.1 to A.4), on any field whose endpoints can be had as exactly as one likes.

A `Variant` is the paper's recipe but for the fields that are set otherwise; `fit_variant` trains it in seconds on an
exact field. Errors are those of held-out noise, against the exact endpoint and not the teacher's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from apps.solvers.studies.fitted import Training, errors, fit
from apps.solvers.studies.problems import PAIRS, Problem, Rollout
from core.grids import build_grid
from core.losses import MSE
from core.path_supervision import PathLoss, RunAlongPath
from core.solvers.euler import Euler
from core.solvers.ipndm import IPNDM, WEIGHTS
from core.solvers.learned.dyweight import DyWeight, DyWeightConfig
from core.state import Solver, State, VelocityField, trajectory
from core.supervision import Example

Start = Literal["adams-bashforth", "euler", "uniform"]
Supervision = Literal["endpoint", "path"]


@dataclass(frozen=True)
class Variant:
    """A way to train DyWeight; the defaults are those of the paper for pixels.

    Attributes:
        nfe: network calls.
        afs: analytic first step: a step more than network calls.
        history: K, slopes that a step weighs; 0 for all there are.
        start: weights before training.
        grid: name of the grid before training, see `core.GRIDS`.
        shift: time shifting, equation 9: the network is told the time that the weights have moved the state to.
            Without it, the node of the grid.
        scale: time scaling: whether s is trained.
        supervision: the teacher's endpoint, or its states at all nodes, equation A.15 with the same distance at each.
        teacher: whose endpoints are learned.
        pairs: how many of them.
    """

    nfe: int = 3
    afs: bool = True
    history: int = 3
    start: Start = "adams-bashforth"
    grid: str = "karras"
    shift: bool = True
    scale: bool = True
    supervision: Supervision = "endpoint"
    teacher: Rollout = field(default_factory=Rollout)
    pairs: int = PAIRS

    @property
    def steps(self) -> int:
        return self.nfe + self.afs

    def nodes(self, problem: Problem) -> Tensor:
        """The grid (steps + 1,)."""
        return build_grid(self.grid, self.steps, *problem.ends)

    def build(self, problem: Problem) -> DyWeight:
        """The solver before training."""
        history = min(self.history or self.steps, self.steps)
        base = IPNDM(min(history, len(WEIGHTS))) if self.start == "adams-bashforth" else Euler()
        start = "uniform" if self.start == "uniform" else "base"
        config = DyWeightConfig(self.nodes(problem), base, history, start=start, analytic=self.afs)
        solver = DyWeight(config) if self.shift else Unshifted(config)
        solver.time_scale.requires_grad_(self.scale)
        return solver


class Unshifted(DyWeight):
    """DyWeight without time shifting: the weights are as free, but states are said to be at the nodes of the grid."""

    kind = "dyweight-unshifted"

    def _reached(self, nodes: Tensor, weights: Tensor) -> Tensor:
        return nodes


class Fitted(NamedTuple):
    """A trained variant.

    Attributes:
        solver: of `nodes`.
        nodes: (steps + 1,).
        losses: (iterations,) mean squared errors of the batches.
        spreads: (iterations, steps) standard deviation, over a batch, of the slope of each step; empty under path
            supervision. A slope predicts unit noise.
    """

    solver: DyWeight
    nodes: Tensor
    losses: Tensor
    spreads: Tensor


def fit_variant(problem: Problem, variant: Variant, training: Training) -> Fitted:
    """Train a variant from its start, on pairs drawn with the seed of the training.

    Args:
        problem: field and noise.
        variant: what is trained; its own `pairs` and `afs` hold.
        training: iterations, rate, batch and seed.

    Raises:
        FloatingPointError: the training diverged.
    """
    solver, nodes = variant.build(problem), variant.nodes(problem)
    along = variant.supervision == "path"
    distance = PathLoss(MSE()) if along else MSE()
    run = RunAlongPath(afs=variant.afs, rematerialise=False) if along else RunRecorded(variant.afs, [])
    losses: list[float] = []
    fit(
        solver,
        problem,
        nodes,
        replace(training, pairs=variant.pairs, afs=variant.afs),
        pairs=problem.pairs(variant.pairs, training.seed, variant.teacher, nodes if along else None),
        loss=lambda end, example: distance(end, example.endpoint),
        run=run,
        report=lambda iteration, values: losses.append(values["loss"]),
    )
    spreads = run.spreads if isinstance(run, RunRecorded) else []
    return Fitted(solver.eval(), nodes, torch.tensor(losses), torch.tensor(spreads))


@dataclass(frozen=True)
class RunRecorded:
    """A student's run to its end that keeps the standard deviation of its slopes: (solver, field, example, grid) ->
    endpoint, as `core.RunToEnd`.

    Attributes:
        afs: analytic first step.
        spreads: a row (steps) is added by each run.
    """

    afs: bool
    spreads: list[list[float]]

    def __call__(self, solver: Solver, field: VelocityField, example: Example, grid: Tensor) -> Tensor:
        states = list(trajectory(field, solver, example.x_T, grid, self.afs))
        with torch.no_grad():
            self.spreads.append([float(_slope(before, after).std()) for before, after in pairwise(states)])
        return states[-1].x


def _slope(before: State, after: State) -> Tensor:
    """(x - D(x, query)) / t of the step between two states, in EDM's clock; the buffer has it over the query."""
    newest = after.buffer[0]
    return newest.velocity * (newest.t / before.t)


class Outcome(NamedTuple):
    """A variant, trained once for each seed.

    Attributes:
        fitted: one a seed; none of an untrained one.
        errors: (seeds, held_out): root mean square over a state of its endpoint's distance to the exact one.
    """

    fitted: tuple[Fitted, ...]
    errors: Tensor


def study_variants(
    problem: Problem, variants: Mapping[str, Variant], training: Training, seeds: Sequence[int] = (0,)
) -> dict[str, Outcome]:
    """Train each variant with each seed and measure it on the same held-out states."""
    outcomes = {}
    for name, variant in variants.items():
        fitted = tuple(fit_variant(problem, variant, replace(training, seed=seed)) for seed in seeds)
        found = [errors(one.solver, problem, one.nodes, variant.afs) for one in fitted]
        outcomes[name] = Outcome(fitted, torch.stack(found))
    return outcomes


def untrained(problem: Problem, variant: Variant) -> Outcome:
    """What a variant starts as: with the defaults iPNDM of the history's order, with an analytic first step."""
    return Outcome((), errors(variant.build(problem), problem, variant.nodes(problem), variant.afs)[None])


def transfer_errors(
    problems: Mapping[str, Problem], solvers: Mapping[str, Solver], nodes: Tensor, afs: bool = False
) -> dict[str, dict[str, Tensor]]:
    """Errors (held_out,) of each solver, trained anywhere, on each problem: problem -> solver -> errors, table A.1."""
    return {
        name: {trained: errors(solver, problem, nodes, afs).double() for trained, solver in solvers.items()}
        for name, problem in problems.items()
    }


def coefficient_table(solver: DyWeight) -> Tensor:
    """The learned numbers (steps, memory + 2) as figure A.1 has them: weights from the oldest slope to the newest,
    their sum, and the time scale; NaN where a step has no slope that old, and for the scale of an analytic step."""
    steps, memory = solver.config.count, solver.memory
    table = torch.full((steps, memory + 2), torch.nan, dtype=torch.float64)
    weights = (solver.weights * solver.band).detach().double()
    for step in range(steps):
        kept = weights[step, max(0, step + 1 - memory) : step + 1]
        table[step, memory - len(kept) : memory] = kept
    table[:, memory] = weights.sum(1)
    table[:, memory + 1] = solver.scales.detach()
    if solver.config.analytic:
        table[0, memory + 1] = torch.nan
    return table
