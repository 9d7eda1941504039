"""What SpanLift costs beside the network it corrects: parameters, operations, latency, throughput (SpanLift, Table 7).

Parameters and operations are exact and the same on every machine. Times are measured in one run, base and SpanLift in
turn, so that what else the machine does falls on both; their ratio is the number to look at.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import core
from apps.imagegen.evaluation import check_seeds
from apps.imagegen.methods import MethodOptions
from apps.imagegen.models import FrozenModel
from apps.imagegen.published import Number, Published
from apps.imagegen.solvers import build_method
from apps.imagegen.tables.store import Result, Store
from apps.imagegen.tables.table import Cell, Filled, exactly
from core.intervals import Interval, student_mean
from data_tools.cli import UserError, progress_bar

QUANTITIES: Mapping[str, str] = {
    "parameters_m": "parameters (M)",
    "gflops_per_image": "GFLOP/image",
    "latency_ms_per_image": "latency (ms/image)",
    "throughput_images_per_s": "throughput (image/s)",
}
"""Columns: name -> heading. Latency is that of one image, throughput that of a batch."""
EXACT = ("parameters_m", "gflops_per_image")
PUBLISHED_SHAPE = (3, 64, 64)
DATA, BASE, LIFTED, PERCENT = "imagenet64", "DyWeight", "SpanLift", "difference (%)"


@dataclass(frozen=True)
class OverheadRecipe:
    """How costs are measured.

    Attributes:
        nfe: network calls; the published operations are nine times those of one call.
        afs: the first step is analytic: a step more than calls.
        batch: images at once for the throughput.
        repeats: timed runs of each kind; 0 times nothing.
        seed: of weights that were not trained, and of the noise.
    """

    nfe: int = 9
    afs: bool = True
    batch: int = 1
    repeats: int = 5
    seed: int = 0


def solvers_for(model: FrozenModel, recipe: OverheadRecipe) -> tuple[nn.Module, nn.Module, Tensor]:
    """DyWeight (untrained: costs do not depend on the weights), SpanLift over it, and their grid."""
    base, grid, _, _ = build_method(model, MethodOptions("dyweight", recipe.nfe, afs=recipe.afs, seed=recipe.seed))
    lifted = build_method(model, MethodOptions("spanlift", recipe.nfe, afs=recipe.afs, seed=recipe.seed)).solver
    assert isinstance(base, nn.Module)
    assert isinstance(lifted, nn.Module)
    return base.eval(), lifted.eval().requires_grad_(False), grid


def count_parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@torch.no_grad()
def count_operations(model: FrozenModel, solver: core.Solver, grid: Tensor, afs: bool) -> int:
    """Floating-point operations for one image, two a multiply-add, over a whole run (`torch.utils.flop_counter`)."""
    start, field = model.start([0]), model.field(model.labels([0]))
    with FlopCounterMode(display=False) as counter:
        core.integrate(field, solver, start, grid, afs)
    return counter.get_total_flops()


def measure(model: FrozenModel, recipe: OverheadRecipe) -> Result:
    """Costs of both, and of SpanLift relative to its base in percent, with Student's 95 % intervals over pairs of timed
    runs."""
    base, lifted, grid = solvers_for(model, recipe)
    model.prepare([0, *range(recipe.seed, recipe.seed + recipe.batch)])
    costs: dict[str, dict[str, Any]] = {"base": {}, "spanlift": {}}
    for name, solver in (("base", base), ("spanlift", lifted)):
        costs[name]["parameters_m"] = count_parameters(model.network, solver) / 1e6
        operations = count_operations(model, solver, grid, recipe.afs)  # pyright: ignore[reportArgumentType]
        costs[name]["gflops_per_image"] = operations / 1e9
    percent: dict[str, Any] = {name: _percent(costs["spanlift"][name], costs["base"][name]) for name in EXACT}
    if recipe.repeats:
        with progress_bar() as bar:
            batches = (1,) if recipe.batch == 1 else (1, recipe.batch)
            task = bar.add_task("timed runs", total=2 * len(batches) * recipe.repeats, note="")
            found = {
                batch: times(model, recipe, (base, lifted), grid, batch, lambda: bar.advance(task)) for batch in batches
            }
        latency, total = found[1], found[recipe.batch]
        for index, name in enumerate(costs):
            costs[name]["latency_ms_per_image"] = tuple(student_mean(1e3 * latency[:, index]))
            costs[name]["throughput_images_per_s"] = tuple(student_mean(recipe.batch / total[:, index]))
        ratio, rate = latency[:, 1] / latency[:, 0], total[:, 0] / total[:, 1]
        percent["latency_ms_per_image"] = tuple(student_mean(100 * (ratio - 1)))
        percent["throughput_images_per_s"] = tuple(student_mean(100 * (rate - 1)))
    return costs | {"percent": percent}


def _percent(value: float, base: float) -> float:
    return 100 * (value / base - 1)


@torch.no_grad()
def times(
    model: FrozenModel,
    recipe: OverheadRecipe,
    solvers: tuple[nn.Module, nn.Module],
    grid: Tensor,
    batch: int,
    advance: Callable[[], object],
) -> Tensor:
    """Seconds of whole runs, (repeats, 2), the two solvers in turn and every other pair the other way round."""
    seeds = range(recipe.seed, recipe.seed + batch)
    start, field = model.start(seeds), model.field(model.labels(seeds))

    def run(solver: nn.Module) -> float:
        _wait(model.device)
        before = time.perf_counter()
        core.integrate(field, solver, start, grid, recipe.afs)  # pyright: ignore[reportArgumentType]
        _wait(model.device)
        return time.perf_counter() - before

    for solver in solvers:
        run(solver)  # the first run also loads kernels
    seconds = torch.empty(recipe.repeats, 2, dtype=torch.float64)
    for repeat in range(recipe.repeats):
        for index in (0, 1) if repeat % 2 == 0 else (1, 0):
            seconds[repeat, index] = run(solvers[index])
            advance()
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> str:
    """What the times were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def fill_overhead(model: FrozenModel, name: str, recipe: OverheadRecipe, store: Store, published: Published) -> Filled:
    """The table, measured or read; `name` is what the model is called on a command line.

    Raises:
        UserError: numbers that cannot be.
    """
    if recipe.nfe < 1 or recipe.batch < 1:
        raise UserError(f"expected --nfe and --batch of at least 1, got {recipe.nfe} and {recipe.batch}")
    if recipe.repeats < 0 or recipe.repeats == 1:
        raise UserError(f"expected --repeats of 0 or at least 2, for an interval, got {recipe.repeats}")
    check_seeds(recipe.seed, recipe.batch)
    where = machine(model.device)
    identity = {"table": "overhead", "model": model.identity, "precision": model.precision, "machine": where}
    result = store.fill("overhead", {**identity, **asdict(recipe)}, lambda: measure(model, recipe))
    rows = {BASE: ("base", "dyweight", None), LIFTED: ("spanlift", "spanlift", "dyweight"), PERCENT: None}
    again = f"python -m apps.imagegen.benchmark --table overhead --model {name} --nfe {recipe.nfe} --repeats 5"
    filled = {}
    for label, row in rows.items():
        key, method, base = row or ("percent", "spanlift", "dyweight")
        metric = "overhead-percent" if row is None else "overhead"
        filled[label] = tuple(
            _cell(result[key].get(quantity), again, published.find(DATA, method, quantity, metric, base=base))
            for quantity in QUANTITIES
        )
    return Filled(
        name="overhead",
        title="Overhead of SpanLift",
        value=f"{model.name}, {recipe.nfe} network calls",
        column="",
        columns=tuple(QUANTITIES.values()),
        rows=filled,
        notes=(
            *_applications(model, recipe, filled),
            f"measured on {where} in {model.precision}; published for ImageNet-64 on a machine the paper does not name",
            f"{recipe.nfe} calls, {recipe.nfe + recipe.afs} steps; latency with one image at a time, throughput with "
            f"{recipe.batch}; {recipe.repeats} runs of each in turn",
            "the published operations, 1973.96 GFLOP, are nine times those of one call of that network",
        ),
        lower_is_better=None,
        plotted=(PERCENT,),
    )


def _applications(model: FrozenModel, recipe: OverheadRecipe, rows: Mapping[str, tuple[Cell, ...]]) -> list[str]:
    """How often the operator would be applied to cost what is published, for images of that size."""
    index = list(QUANTITIES).index("gflops_per_image")
    base, lifted = rows[BASE][index], rows[LIFTED][index]
    known = None not in (base.ours, lifted.ours, base.published, lifted.published)
    if not known or model.shape != PUBLISHED_SHAPE:
        return []
    steps = recipe.nfe + recipe.afs
    each = (lifted.ours.mean - base.ours.mean) / steps  # pyright: ignore[reportOptionalMemberAccess]
    wanted = lifted.published - base.published  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]
    return [
        f"ours is applied at each of {steps} steps, {each:.3f} GFLOP a time; the published {wanted:.2f} GFLOP are "
        f"those of {wanted / each:.1f} applications"
    ]


def _cell(value: Any, again: str, number: Number | None) -> Cell:
    paper: dict[str, Any] = {} if number is None else {"published": number.value, "source": number.row.source}
    if value is None:
        return Cell("missing", why=again, **paper)
    return Cell("measured", Interval(*value) if isinstance(value, list) else exactly(float(value)), **paper)
