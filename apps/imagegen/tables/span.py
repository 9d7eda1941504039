"""How much of SpanLift's correction no combination of the buffered velocities reaches, by step (SpanLift, Table 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import core
from apps.imagegen.evaluation import check_seeds
from apps.imagegen.models import FrozenModel
from apps.imagegen.published import Published
from apps.imagegen.tables.ingredients import Found, Impossible, Missing, Ready, Refused, find
from apps.imagegen.tables.lines import SPAN_LINES, Line
from apps.imagegen.tables.store import Result, Store
from apps.imagegen.tables.table import Cell, Filled, Status
from core.analysis import correction_sizes
from core.intervals import Interval, bootstrap_mean
from core.operators.corrected import Corrected
from data_tools.cli import UserError, progress_bar

DATA, METRIC = "imagenet64", "out-of-span-ratio"
TEACHER_STEPS = 34
"""Steps of iPNDM of order 4 whose endpoint the magnitudes are taken along; with the last denoising 35 calls."""
FIRST = 2
"""First step of the published table: counted from 0, which is the analytic one, the first with three velocities."""


@dataclass(frozen=True)
class SpanRecipe:
    """What the ratios are means over.

    Attributes:
        samples: images.
        batch: of them at once.
        seed: of the first; the others follow.
    """

    samples: int = 64
    batch: int = 32
    seed: int = 1_000_000


@torch.no_grad()
def measure(model: FrozenModel, ready: Ready, recipe: SpanRecipe) -> Result:
    """Ratios |R - P R| / |R| and magnitudes relative to the base step of each step, with 95 % intervals over samples.

    Raises:
        ValueError: states that are no numbers, or a grid that is not the solver's.
    """
    sampler = ready.sampler
    solver = sampler.solver
    assert isinstance(solver, Corrected)  # `find` refuses others
    solver = solver.to(model.device)
    teacher, teacher_grid = core.build_solver("ipndm", order=4), model.grid("karras", TEACHER_STEPS)
    ratios, magnitudes = [], []
    with progress_bar() as bar:
        task = bar.add_task("out of span", total=recipe.samples, note="")
        for first in range(recipe.seed, recipe.seed + recipe.samples, recipe.batch):
            seeds = range(first, min(first + recipe.batch, recipe.seed + recipe.samples))
            start, field = model.start(seeds), model.field(model.labels(seeds))
            endpoint = core.integrate(field, teacher, start, teacher_grid, denoise=True).x
            steps = correction_sizes(field, solver, start, sampler.grid, endpoint, sampler.afs)
            ratios.append(torch.stack([step.out_of_span for step in steps]))
            magnitudes.append(torch.stack([step.magnitude for step in steps]))
            bar.advance(task, len(seeds))
    return {
        "out_of_span": [list(bootstrap_mean(values)) for values in torch.cat(ratios, 1)],
        "magnitude": [_magnitude(values) for values in torch.cat(magnitudes, 1)],
    }


def _magnitude(values: Tensor) -> list[float] | None:
    """None where a base step has nothing but its part along the chord, so that no size is relative to it."""
    return list(bootstrap_mean(values)) if bool(torch.isfinite(values).all()) else None


def fill_span(
    model: FrozenModel, name: str, folder: str, nfe: int, recipe: SpanRecipe, store: Store, published: Published
) -> Filled:
    """The table: rows of bases, columns of steps.

    Args:
        model: frozen.
        name: what the model is called on a command line.
        folder: of the trained solvers.
        nfe: network calls of their rollouts.
        recipe: samples.
        store: of finished cells.
        published: numbers to stand beside.
    """
    if nfe < FIRST:
        raise UserError(f"expected --nfe of at least {FIRST} for out-of-span, got {nfe}")
    if recipe.samples < 1 or recipe.batch < 1:
        raise UserError(f"expected --samples and --batch of at least 1, got {recipe.samples} and {recipe.batch}")
    check_seeds(recipe.seed, recipe.samples)
    columns = range(FIRST, nfe + 1)
    rows: dict[str, tuple[Cell, ...]] = {}
    for line in SPAN_LINES:
        found = find(model, name, line, nfe, folder)
        rows[line.label] = _row(model, found, recipe, store, published, line, nfe)
    return Filled(
        name="out-of-span",
        title="Part of the correction outside the span of the buffered velocities",
        value=f"mean ratio |R - P R| / |R|, {model.name}, {nfe} network calls",
        column="step",
        columns=tuple(map(str, columns)),
        rows=rows,
        notes=(
            f"{recipe.samples} samples from seed {recipe.seed}; step 0 is the analytic one",
            "published for ImageNet-64 without the number of calls; steps 2 to 7 are read as those of 7 calls, see "
            "published.json",
        ),
        lower_is_better=None,
    )


def _row(
    model: FrozenModel,
    found: Found,
    recipe: SpanRecipe,
    store: Store,
    published: Published,
    line: Line,
    nfe: int,
) -> tuple[Cell, ...]:
    steps = range(FIRST, nfe + 1)
    if isinstance(found, Missing):
        return tuple(_cell("missing", None, published, line, step, found.command) for step in steps)
    if isinstance(found, Impossible):
        return tuple(_cell("impossible", None, published, line, step, found.reason) for step in steps)
    if isinstance(found, Refused):
        return tuple(_cell("failed", None, published, line, step, found.reason) for step in steps)
    identity = {"table": "out-of-span", **found.identity(model), **_samples(recipe)}
    try:
        result = store.fill(f"out-of-span-{line.key}-nfe{nfe}", identity, lambda: measure(model, found, recipe))
    except (ValueError, FloatingPointError) as error:
        return tuple(_cell("failed", None, published, line, step, str(error)) for step in steps)
    return tuple(_cell("measured", _step(result, step), published, line, step) for step in steps)


def _samples(recipe: SpanRecipe) -> dict[str, int]:
    """What the result depends on: the size of batches is not part of it."""
    return {key: value for key, value in asdict(recipe).items() if key != "batch"}


def _step(result: Result, step: int) -> Mapping[str, Sequence[float]]:
    return {key: result[key][step] for key in ("out_of_span", "magnitude")}


def _cell(
    status: Status,
    found: Mapping[str, Sequence[float]] | None,
    published: Published,
    line: Line,
    step: int,
    why: str = "",
) -> Cell:
    number = published.find(DATA, "spanlift", step, METRIC, base=line.published_base)
    paper: dict[str, Any] = {} if number is None else {"published": number.value, "source": number.row.source}
    if found is None:
        return Cell(status, why=why, **paper)
    magnitude = found["magnitude"] and Interval(*found["magnitude"])._asdict()
    return Cell(status, Interval(*found["out_of_span"]), details={"magnitude": magnitude}, **paper)
