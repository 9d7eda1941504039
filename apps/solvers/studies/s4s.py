"""S4S and S4S-Alt on exact fields: which parts of the method matter (Frankel et al. 2025, arXiv 2502.17423).

A `Variant` says what is learned and how; `S4SStudy` trains it for some grid and number of calls, once, and measures it.
The tables of the paper are lists of variants. What stands for its FID is the distance of endpoints to the exact ones
from the same held-out noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from apps.solvers.methods import SIGMA_MAX, SIGMA_MIN
from apps.solvers.studies.fitted import Report, Task, Training, distance, errors, fit, fit_alternating, fit_relaxed
from apps.solvers.studies.rows import Row, row
from core.grids import build_grid
from core.solvers import build_solver
from core.solvers.ipndm import IPNDM, WEIGHTS
from core.solvers.learned.increments import Band
from core.solvers.learned.ld3 import LD3
from core.solvers.learned.s4s_alt import S4SAlternating
from core.solvers.learned.s4s_lms import S4SMultistep
from core.solvers.learned.s4s_ss import S4SSingleStep
from core.solvers.learned.start_tables import table_of
from core.state import Solver

Base = Literal["ipndm", "dpm-solver++", "unipc", "dpm-solver-2"]
Learned = Literal["nothing", "coefficients", "alternating", "joint"]
GITS_SAMPLES = 128


@dataclass(frozen=True)
class Variant:
    """A solver and how it is learned; the defaults are S4S over iPNDM of three evaluations.

    Attributes:
        learned: nothing (the base itself), its coefficients (S4S), coefficients and times in turns (S4S-Alt), or both
            at once.
        base: what it starts as; "unipc" is learned as a predictor and a corrector, "dpm-solver-2" as a single-step
            method of two calls.
        order: evaluations weighed; None for as many as there are steps.
        relaxed: the relaxed objective (equation 7); else the plain one, r = 0.
        tied: one set of coefficients for all steps ("global"), in place of one for each.
        consistent: weights of every step sum to 1, for a single-step method (appendix H.2.4).
        gaussian: coefficients start as standard normal numbers in place of the base's (appendix H.2.1).
        pairs: training pairs; None for those of the study.
    """

    learned: Learned = "coefficients"
    base: Base = "ipndm"
    order: int | None = 3
    relaxed: bool = True
    tied: bool = False
    consistent: bool = False
    gaussian: bool = False
    pairs: int | None = None

    @property
    def calls(self) -> int:
        """Network calls a step."""
        return 2 if self.base == "dpm-solver-2" else 1

    def takes(self, nfe: int) -> bool:
        """Whether so many calls can be spent on it."""
        return nfe % self.calls == 0 and nfe // self.calls >= (self.order or 1) * (self.calls == 1)


class S4SStudy:
    """Variants on one task, each trained when first asked for.

    Args:
        task: field and pairs.
        training: of the coefficients; its iterations are those of all phases together where there are several.
        times_rate: learning rate of times, and of everything where both are learned at once.
        rounds: of the alternating optimisation; the paper's number is 8.
        seeds: of the order of pairs and of Gaussian starts, one training each.
        constant: see `core.Relaxation`.
    """

    def __init__(
        self,
        task: Task,
        training: Training,
        times_rate: float = 1e-2,
        rounds: int = 8,
        seeds: tuple[int, ...] = (0,),
        constant: float | None = None,
    ) -> None:
        self.task = task
        self.training = training
        self.times_rate = times_rate
        self.rounds = rounds
        self.seeds = seeds
        self.constant = constant
        self._grids: dict[tuple[str, int], Tensor] = {}
        self._errors: dict[tuple[Variant, str, int], Tensor] = {}

    def grid(self, name: str, steps: int) -> Tensor:
        """(steps + 1,) times: one of `core.GRIDS`, or "ld3", times that iPNDM of order 3 learns from "karras"."""
        if (name, steps) not in self._grids:
            self._grids[name, steps] = self._learn_grid(steps) if name == "ld3" else self._build_grid(name, steps)
        return self._grids[name, steps]

    def errors(self, variant: Variant, grid: str, nfe: int) -> Tensor:
        """Root mean square errors of the held-out samples, (seeds, samples); one row where nothing is learned."""
        key = (variant, grid, nfe)
        if key not in self._errors:
            times = self.grid(grid, nfe // variant.calls)
            seeds = self.seeds if variant.learned != "nothing" else (0,)
            found = [errors(self.trained(variant, times, seed), self.task, times) for seed in seeds]
            self._errors[key] = torch.stack(found)
        return self._errors[key]

    def table(
        self,
        variants: Mapping[str, Variant],
        nfe: Iterable[int],
        grids: Iterable[str] = ("karras",),
        reference: Variant | None = None,
    ) -> list[Row]:
        """The rows of a table; those of variants that cannot spend so many calls are left out.

        Args:
            variants: by what the table calls them.
            nfe: network calls, of the columns.
            grids: of the blocks.
            reference: what gains are over; the variant's own base where not given.
        """
        grids = tuple(grids)
        rows = []
        for grid in grids:
            for name, variant in variants.items():
                other = replace(variant, **BASE_ALONE) if reference is None else reference
                for count in nfe:
                    if variant.takes(count):
                        beside = None if variant == other else self.errors(other, grid, count)
                        group = grid if len(grids) > 1 else ""
                        rows.append(row(group, name, count, self.errors(variant, grid, count), beside))
        return rows

    def trained(self, variant: Variant, grid: Tensor, seed: int, report: Report | None = None) -> Solver:
        """The solver of a variant, trained on `grid` where it learns anything."""
        solver = build(variant, grid, seed)
        pairs = self.training.pairs if variant.pairs is None else variant.pairs
        training = replace(self.training, seed=seed, pairs=pairs)
        constant = self.constant if variant.relaxed else 0.0
        if variant.learned == "coefficients":
            assert isinstance(solver, nn.Module)
            fit_relaxed(solver, self.task, grid, training, constant=constant, loss=distance, report=report)
        elif variant.learned == "joint":
            assert isinstance(solver, nn.Module)
            joint = replace(training, rate=self.times_rate)
            fit_relaxed(solver, self.task, grid, joint, constant=constant, loss=distance)
        elif variant.learned == "alternating":
            assert isinstance(solver, S4SAlternating)
            fit_alternating(
                solver,
                self.task,
                grid,
                training,
                rounds=self.rounds,
                times_rate=self.times_rate,
                constant=constant,
                loss=distance,
            )
        return solver

    def _build_grid(self, name: str, steps: int) -> Tensor:
        searched = {"field": self.task.field, "x_T": self.task.pool.x_T[:GITS_SAMPLES]} if name == "gits" else {}
        return build_grid(name, steps, SIGMA_MAX, SIGMA_MIN, **searched)

    def _learn_grid(self, steps: int) -> Tensor:
        grid = self.grid("karras", steps)
        solver = build_solver("ld3", base=IPNDM(3), grid=grid)
        assert isinstance(solver, LD3)
        return fit(solver, self.task, grid, replace(self.training, seed=self.seeds[0]), loss=distance).grid


BASE_ALONE: Mapping[str, object] = {
    "learned": "nothing",
    "relaxed": True,
    "tied": False,
    "consistent": False,
    "gaussian": False,
    "pairs": None,
    "order": 3,
}
"""What makes a variant its base: iPNDM, DPM-Solver++ and UniPC of order 3."""


def build(variant: Variant, grid: Tensor, seed: int = 0) -> Solver:
    """The untrained solver of a variant for `grid`.

    Raises:
        ValueError: coefficients that are no multistep method's are to be tied or to start as Gaussian numbers, or
            weights of another than a single-step method to be consistent.
    """
    steps = len(grid) - 1
    order = steps if variant.order is None else variant.order
    base = _base(variant.base, order)
    if variant.learned == "nothing":
        return base
    if variant.base == "dpm-solver-2":
        solver = build_solver("s4s-ss", base=base, grid=grid)
    else:
        kind = "s4s-alt" if variant.learned in ("alternating", "joint") else "s4s-lms"
        kind = "s4s-pc" if variant.base == "unipc" else kind
        solver = build_solver(kind, base=base, grid=grid, order=min(order, steps))
    if variant.tied or variant.gaussian:
        if not isinstance(solver, S4SMultistep) or not isinstance(base, IPNDM):
            raise ValueError(f"expected iPNDM as the base of tied or Gaussian coefficients, got {variant.base!r}")
        if variant.tied:
            solver.weights = TiedBand(steps, solver.history)
        if variant.gaussian:
            _scatter(solver, seed)
    if variant.consistent:
        if not isinstance(solver, S4SSingleStep):
            raise ValueError(f"expected a single-step base of consistent weights, got {variant.base!r}")
        parametrize.register_parametrization(solver, "b", Centred())
    return solver


def _base(name: Base, order: int) -> Solver:
    if name == "ipndm":
        return IPNDM(min(order, len(WEIGHTS)))
    return build_solver(name, order=None if name == "dpm-solver-2" else order)


class TiedBand(Band):
    """Learned additions that are the same in all rows, (k,); a row reads as many as it has."""

    def __init__(self, rows: int, history: int) -> None:
        super().__init__(rows, history)
        self.values = nn.Parameter(torch.zeros(history, dtype=torch.float64))

    def __getitem__(self, row: int) -> Tensor:
        return self.values[: self.lengths[row]]


class Centred(nn.Module):
    """Rows whose sum is 0: what is added to weights of sum 1 leaves them that sum."""

    def forward(self, free: Tensor) -> Tensor:
        return free - free.mean(1, keepdim=True)

    def right_inverse(self, values: Tensor) -> Tensor:
        return values


@torch.no_grad()
def _scatter(solver: S4SMultistep, seed: int) -> None:
    """Coefficients drawn from N(0, 1)."""
    drawn = torch.randn(solver.weights.values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    start = torch.cat([found[:length] for found, length in zip(coefficients(solver), solver.weights.lengths)])  # noqa: B905
    solver.weights.values.add_(drawn - start)


@torch.no_grad()
def coefficients(solver: S4SMultistep) -> Tensor:
    """b (steps, k) of a student of iPNDM, newest evaluation first; 0 where there is none yet."""
    grid = solver.config.grid
    assert isinstance(solver.base, IPNDM)
    steps, memory = len(grid) - 1, solver.memory
    table = table_of(solver.base, grid, steps)
    found = torch.zeros(steps, memory, dtype=torch.float64)
    for step in range(steps):
        count = min(step + 1, memory)
        found[step, :count] = table[step, step + 1 - count : step + 1].flip(0)
        own = solver.weights[step]
        found[step, : len(own)] += own
    return found
