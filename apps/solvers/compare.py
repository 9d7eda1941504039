"""`python -m apps.solvers.compare`: every learned solver, trained and measured on exact mixture fields in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from apps.solvers.cells import Cell, Recipe, run_cell
from apps.solvers.fields import FIELDS
from apps.solvers.methods import METHODS
from core.fitting import write_atomically
from core.intervals import Interval, bootstrap_mean
from core.names import nearest
from data_tools.cli import UserError, console, progress_bar, run

RANKING = ("scalar", "dyweight", "spanlift")
"""Expected from worst to best (SpanLift, section 5); examined here."""
TABLE_WIDTH = 160
Value = TypeVar("Value")


@dataclass(frozen=True)
class CompareOptions:
    """Options of the command.

    Attributes:
        methods: comma-separated rows of the table; `all`, `learned` or `handcrafted` stand for many.
        nfe: comma-separated numbers of network calls per sample.
        fields: comma-separated exact fields, among waves (images of 2 x 8 x 8) and ring (one pixel, two channels).
        iterations: training steps of each learned method.
        batch: samples per training step.
        held_out: samples that errors are measured on; their noise is never trained on.
        seed: of weights, draws and noise.
        workers: cells that are trained side by side.
        out: folder to write to. Cells that are finished there are kept when the command is started again.
    """

    methods: str = "all"
    nfe: str = "3,4,5"
    fields: str = "waves,ring"
    iterations: int = 300
    batch: int = 32
    held_out: int = 256
    seed: int = 0
    workers: int = 2
    out: str = "out/compare"


def main(options: CompareOptions) -> None:
    """Fill the table, write it as JSON, show it as markdown.

    Raises:
        UserError: an unknown name, a number that cannot be, a folder of another comparison.
    """
    names, counts, fields = _methods(options.methods), _counts(options.nfe), _known(options.fields, FIELDS, "--fields")
    for name in ("iterations", "batch", "held_out", "workers"):
        if getattr(options, name) < 1:
            raise UserError(f"expected --{name} of at least 1, got {getattr(options, name)}")
    recipe = Recipe(options.iterations, options.batch, options.held_out, options.seed)
    out = Path(options.out)
    wanted = [(field, name, count) for field in fields for name in names for count in counts]
    cells = _fill(recipe, wanted, out, min(options.workers, len(wanted)))
    rankings = [found for field in fields for count in counts for found in _ranking(cells, field, count)]
    path = _write(out / "compare.json", options, cells, rankings)
    screen = Console(width=TABLE_WIDTH)
    for field in fields:
        screen.print(_table(field, names, counts, cells))
    if rankings:
        screen.print(_ranking_table(rankings))
    for cell in cells.values():
        if cell.failed:
            console.print(f"{cell.method} at {cell.nfe} calls on {cell.field} failed: {cell.failed}")
    console.print(f"wrote {path}")


Cells = Mapping[tuple[str, str, int], Cell]
"""(field, method, NFE) -> cell; those that a method cannot have are left out."""


def _fill(recipe: Recipe, wanted: Sequence[tuple[str, str, int]], out: Path, workers: int) -> Cells:
    """The cells, each made by one of the workers; those that are slow to train come first."""
    order = sorted(wanted, key=lambda place: (-METHODS[place[1]].weight, -place[2]))
    found: dict[tuple[str, str, int], Cell | None] = {}
    with progress_bar() as bar, _pool(workers) as pool:
        task = bar.add_task("cells", total=len(order), note="")
        futures = {pool.submit(run_cell, recipe, *place, out): place for place in order}
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                field, name, nfe = futures[future]
                bar.update(task, advance=1, note=f"{name}, {nfe} calls, {field}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        bar.update(task, note="")
    return {place: cell for place in wanted if (cell := found[place]) is not None}


def _pool(workers: int) -> Executor:
    """Processes, or one thread: states this small are slower on several cores, cells side by side are not."""
    if workers == 1:
        return ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))


@dataclass(frozen=True)
class Comparison:
    """better - worse in error, paired by sample: below 0 where the expectation holds."""

    field: str
    nfe: int
    better: str
    worse: str
    difference: Interval

    @property
    def verdict(self) -> str:
        if self.difference.high < 0:
            return "holds"
        return "the other way round" if self.difference.low > 0 else "undecided"


def _ranking(cells: Cells, field: str, nfe: int) -> list[Comparison]:
    found = []
    for worse, better in pairwise(RANKING):
        pair = [cells.get((field, name, nfe)) for name in (better, worse)]
        if all(cell is not None and cell.errors for cell in pair):
            first, second = (torch.tensor(cell.errors) for cell in pair if cell is not None)
            found.append(Comparison(field, nfe, better, worse, bootstrap_mean(first - second)))
    return found


def _table(field: str, names: Sequence[str], counts: Sequence[int], cells: Cells) -> Table:
    """Rows of methods; columns of NFE: mean error with its interval, and that of the untrained method behind."""
    table = Table(title=f"{field}: error of the endpoint on held-out noise, mean [95 % interval]", box=MARKDOWN)
    table.add_column("method", no_wrap=True)
    table.add_column("base", no_wrap=True)
    for count in counts:
        table.add_column(f"NFE {count}", justify="right", no_wrap=True)
        table.add_column("base's", justify="right", no_wrap=True)
    for name in names:
        row = [name, METHODS[name].base or "-"]
        for count in counts:
            cell = cells.get((field, name, count))
            row += ["-", "-"] if cell is None else [_shown(cell.errors, True), _shown(cell.untrained, False)]
        table.add_row(*row)
    return table


def _ranking_table(rankings: Sequence[Comparison]) -> Table:
    table = Table(title=f"Is {' > '.join(RANKING)} in error? Paired differences, mean [95 % interval]", box=MARKDOWN)
    for heading in ("field", "NFE", "better", "than", "difference", "verdict"):
        table.add_column(heading, no_wrap=True)
    for found in rankings:
        shown = _interval(found.difference)
        table.add_row(found.field, str(found.nfe), found.better, found.worse, shown, found.verdict)
    return table


def _shown(errors: Sequence[float], interval: bool) -> str:
    if not errors:
        return "-"
    found = bootstrap_mean(torch.tensor(errors))
    return _interval(found) if interval else f"{found.mean:.3g}"


def _interval(found: Interval) -> str:
    return f"{found.mean:.3g} \\[{found.low:.3g}, {found.high:.3g}]"  # rich reads bare brackets as markup


def _write(path: Path, options: CompareOptions, cells: Cells, rankings: Sequence[Comparison]) -> Path:
    rows = []
    for cell in cells.values():
        untrained = bootstrap_mean(torch.tensor(cell.untrained)) if cell.untrained else None
        rows.append(
            {
                "field": cell.field,
                "method": cell.method,
                "base": METHODS[cell.method].base or None,
                "nfe": cell.nfe,
                "calls_counted": cell.counted,
                "error": _as_json(bootstrap_mean(torch.tensor(cell.errors))) if cell.errors else None,
                "base_error": None if untrained is None else _as_json(untrained),
                "gain": _gain(cell),
                "seconds": round(cell.seconds, 2),
                "failed": cell.failed or None,
            }
        )
    settings = {key: value for key, value in asdict(options).items() if key not in {"out", "workers"}}
    ranking = [
        {**asdict(found), "difference": _as_json(found.difference), "verdict": found.verdict} for found in rankings
    ]
    content = {"options": settings, "rows": rows, "ranking": ranking}
    write_atomically(
        path, lambda temporary: temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    )
    return path


def _gain(cell: Cell) -> dict[str, float | list[float]] | None:
    """base's error - error, paired; above 0 where training helped."""
    if not cell.untrained or not cell.errors:
        return None
    return _as_json(bootstrap_mean(torch.tensor(cell.untrained) - torch.tensor(cell.errors)))


def _as_json(found: Interval) -> dict[str, float | list[float]]:
    return {"value": found.mean, "ci95": [found.low, found.high]}


def _methods(text: str) -> list[str]:
    groups = {
        "all": list(METHODS),
        "learned": [name for name, method in METHODS.items() if method.learned],
        "handcrafted": [name for name, method in METHODS.items() if not method.learned],
    }
    return groups[text] if text in groups else _known(text, METHODS, "--methods")


def _known(text: str, known: Mapping[str, Value], option: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            raise UserError(f"expected {option} among {', '.join(known)}, got {name!r}{nearest(name, known)}")
    if not names:
        raise UserError(f"expected {option} among {', '.join(known)}, got none")
    return names


def _counts(text: str) -> list[int]:
    try:
        counts = list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise UserError(f"expected --nfe as whole numbers like 3,4,5, got {text!r}") from None
    if min(counts) < 1:
        raise UserError(f"expected --nfe of at least 1, got {min(counts)}")
    return counts


if __name__ == "__main__":
    run(
        CompareOptions,
        main,
        prog="python -m apps.solvers.compare",
        description="Train every learned solver on exact mixture fields and compare them at a few network calls.",
        examples="""examples:
  python -m apps.solvers.compare
  python -m apps.solvers.compare --methods scalar,dyweight,spanlift --nfe 3 --fields waves --iterations 400
  python -m apps.solvers.compare --methods handcrafted --nfe 4,6,8,10 --out out/handcrafted""",
    )
