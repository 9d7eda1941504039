"""One cell of the comparison: a method, a field and a number of network calls, trained and measured."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from apps.solvers.fields import FIELDS
from apps.solvers.methods import METHODS, SIGMA_MAX, SIGMA_MIN, Budget, Method, Problem, budget, build
from core.fitting import FitConfig, write_atomically
from core.grids import build_grid
from core.model_statistics import ModelStatistics, estimate_statistics
from core.schedules import EDM
from core.solvers import build_solver
from core.state import Solver, integrate
from core.supervision import Example
from core.training import run_to_end, run_to_end_afs, train_solver
from data_tools.cli import UserError

TEACHER_STEPS = 64
POOL = 1024
STATISTICS_NODES = 60
STATISTICS_SAMPLES = 128
HELD_OUT_SEED = 2**31
"""Added to the seed of the run: held-out noise is drawn apart from that of the training."""


@dataclass(frozen=True)
class Recipe:
    """What every cell shares: a cell of another recipe is not reused."""

    iterations: int
    batch: int
    held_out: int
    seed: int


@dataclass(frozen=True)
class Cell:
    """The result of a cell: per-sample errors, root mean square over a sample, on held-out noise.

    Attributes:
        field, method, nfe: which.
        counted: network calls per sample that the run counted.
        untrained: errors of the base solver, which an untrained method is; empty for handcrafted ones.
        errors: errors of the method; empty where it failed.
        seconds: of training and measuring.
        failed: why there are no errors; empty where there are.
    """

    field: str
    method: str
    nfe: int
    counted: int
    untrained: tuple[float, ...]
    errors: tuple[float, ...]
    seconds: float
    failed: str = ""


class Bench:
    """A field with its pairs of noise and exact endpoint, made by many steps of a Runge-Kutta method when needed."""

    def __init__(self, name: str, recipe: Recipe) -> None:
        self.name = name
        self.recipe = recipe
        self.field = FIELDS[name](None)

    @cached_property
    def pool(self) -> Example:
        return self._pairs(POOL, self.recipe.seed)

    @cached_property
    def held_out(self) -> Example:
        return self._pairs(self.recipe.held_out, HELD_OUT_SEED + self.recipe.seed)

    @cached_property
    def statistics(self) -> ModelStatistics:
        nodes = build_grid("logsnr", STATISTICS_NODES, SIGMA_MAX, SIGMA_MIN)
        noise = [self.pool.x_T[:STATISTICS_SAMPLES]]
        return estimate_statistics(self.field, EDM(), noise, nodes, build_solver("heun"), seed=self.recipe.seed)

    def examples(self, iteration: int) -> Example:
        """A batch of the pool, a function of the iteration alone."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + iteration)
        rows = torch.randint(POOL, (self.recipe.batch,), generator=generator)
        return Example(self.pool.x_T[rows], None, self.pool.endpoint[rows])

    def _pairs(self, count: int, seed: int) -> Example:
        generator = torch.Generator().manual_seed(seed)
        shape = self.field.means.shape[1:]
        x_T = SIGMA_MAX * torch.randn(count, *shape, generator=generator, dtype=torch.float64)
        grid = build_grid("karras", TEACHER_STEPS, SIGMA_MAX, SIGMA_MIN)
        with torch.no_grad():
            return Example(x_T, None, integrate(self.field, build_solver("rk4"), x_T, grid).x)


@lru_cache(maxsize=4)
def bench_of(field: str, recipe: Recipe) -> Bench:
    """The bench that all cells of a field in one process share."""
    return Bench(field, recipe)


def run_cell(recipe: Recipe, field: str, name: str, nfe: int, out: Path) -> Cell | None:
    """The finished cell, read from `out` where it is there; None where the method cannot take so many calls.

    Raises:
        UserError: the folder holds a cell of another recipe.
    """
    method = METHODS[name]
    spent = budget(method, nfe)
    if spent is None:
        return None
    path = out / "cells" / field / f"{name}-nfe{nfe}.json"
    if path.exists():
        return _read(path, asdict(recipe))
    start = time.monotonic()
    runs = out / "runs" / f"{field}-{name}-nfe{nfe}"
    try:
        untrained, errors, counted = measure(bench_of(field, recipe), method, spent, runs)
        cell = Cell(field, name, nfe, counted, untrained, errors, time.monotonic() - start)
    except FloatingPointError as error:
        cell = Cell(field, name, nfe, 0, (), (), time.monotonic() - start, str(error))
    text = json.dumps({"recipe": asdict(recipe), "cell": asdict(cell)}, allow_nan=False)
    write_atomically(path, lambda temporary: temporary.write_text(text))
    shutil.rmtree(runs, ignore_errors=True)
    return cell


def _read(path: Path, recipe: dict[str, int]) -> Cell:
    try:
        content = json.loads(path.read_text())
        found, cell = content["recipe"], content["cell"]
        lists = {key: tuple(cell[key]) for key in ("untrained", "errors")}
        read = Cell(**{**cell, **lists})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"expected a finished cell in {path}, got a damaged file; remove it") from error
    if found != recipe:
        raise UserError(f"expected cells of {recipe} in {path.parent}, got {found}; choose another --out or remove it")
    return read


def measure(
    bench: Bench, method: Method, spent: Budget, runs: Path
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """(errors of the untrained solver, errors, network calls); `runs` is where training is kept while it lasts."""
    space = bench.field.means.shape[1:]
    statistics = None if method.learned else bench.statistics
    problem = Problem(spent.grid, space[0], len(space), statistics, spent.points)
    base = None
    if method.pretrained is not None:
        first = METHODS[method.pretrained]
        base = build(first, problem, bench.recipe.seed)
        _train(bench, base, first, spent, runs / "base")
        base.requires_grad_(False)  # pyright: ignore
    solver = build(method, problem, bench.recipe.seed, base)
    before, counted = _errors(bench, solver, spent)
    if not method.learned:
        return (), before, counted
    _train(bench, solver, method, spent, runs / "method")
    return before, *_errors(bench, solver, spent)


def _train(bench: Bench, solver: Solver, method: Method, spent: Budget, directory: Path) -> None:
    assert isinstance(solver, nn.Module)
    iterations = bench.recipe.iterations
    train_solver(
        solver,
        spent.grid,
        bench.examples,
        lambda condition: bench.field,
        lambda end, example: (end - example.endpoint).square().mean(),
        FitConfig(iterations, method.rate, checkpoint_every=max(1, iterations // 4)),
        directory,
        run=run_to_end_afs if spent.afs else run_to_end,
        identity=asdict(bench.recipe),
    )


@torch.no_grad()
def _errors(bench: Bench, solver: Solver, spent: Budget) -> tuple[tuple[float, ...], int]:
    state = integrate(bench.field, solver, bench.held_out.x_T, spent.grid, spent.afs)
    return tuple(_rms(state.x - bench.held_out.endpoint).tolist()), state.nfe


def _rms(difference: Tensor) -> Tensor:
    return difference.flatten(1).square().mean(1).sqrt()
