"""Tables of latent models: several scores of the same samples, each a table of its own with the papers' numbers beside.

A method is sampled once for all scores that are not there yet. A score that comes later, as when a package or the
reference images arrive, is measured for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apps.imagegen.published import Published
from apps.imagegen.tables.ingredients import Found, Missing, Ready, find
from apps.imagegen.tables.latent_bench import LatentBench
from apps.imagegen.tables.latent_lines import METRICS, SCORERS, LatentSpec
from apps.imagegen.tables.lines import Line
from apps.imagegen.tables.quality import printed, without_value
from apps.imagegen.tables.store import Result, Store
from apps.imagegen.tables.table import Cell, Filled
from core.intervals import Interval
from data_tools.cli import UserError, progress_bar

Place = tuple[Line, int]
"""Row and column."""


def fill_latent(
    table: str,
    spec: LatentSpec,
    bench: LatentBench | None,
    name: str,
    folder: str,
    counts: Sequence[int],
    store: Store,
    published: Published,
    lacking: Mapping[str, str],
    also: str = "",
) -> list[Filled]:
    """A table for the distance to the teacher and for each metric of the paper, its cells measured or read.

    Args:
        table: name.
        spec: its rows.
        bench: model and what looks; None where the model is lacking, and then every cell is missing.
        name: what the model is called on a command line.
        folder: of the trained solvers.
        counts: columns, as the paper counts.
        store: of finished cells.
        published: numbers to stand beside.
        lacking: what would provide the model, by "model", or what a metric lacks, by its name.
        also: further options of trainings, as the model's prompts.

    Raises:
        UserError: a column that is no whole number of evaluations.
    """
    for column in counts:
        if column % spec.counted:
            raise UserError(
                f"expected --nfe in multiples of {spec.counted} for {table}, whose columns count guidance, got {column}"
            )
    found: dict[Place, Found] = {}
    for line in spec.lines:
        for column in counts:
            calls = spec.evaluations(column)
            found[line, column] = (
                Missing(lacking["model"])
                if bench is None
                else find(bench.model, name, line, calls, folder, spec.base, also)
            )
    metrics = ("teacher", *spec.metrics)
    results = {} if bench is None else _results(bench, spec, metrics, found, store)
    tables = []
    for metric in metrics:
        rows = {
            line.label: tuple(
                _cell(found[line, column], results.get((line, column, metric)), lacking.get(metric, ""),
                      printed(published, spec, line, column, metric))
                for column in counts
            )
            for line in spec.lines
        }  # fmt: skip
        tables.append(_filled(table, spec, bench, metric, counts, rows))
    return tables


def _results(
    bench: LatentBench, spec: LatentSpec, metrics: Sequence[str], found: Mapping[Place, Found], store: Store
) -> dict[tuple[Line, int, str], Result]:
    """Results of all cells that have what they need; those that are not finished are measured here."""
    results: dict[tuple[Line, int, str], Result] = {}
    todo: dict[Place, list[str]] = {}
    ready = {place: method for place, method in found.items() if isinstance(method, Ready)}
    names = {
        place: f"{place[0].key or place[0].solver}-nfe{place[0].spent(spec.evaluations(place[1]))}" for place in ready
    }
    for place, method in ready.items():
        for metric in filter(bench.has, metrics):
            done = store.read(f"{names[place]}-{metric}", bench.identity(method, metric))
            if done is None:
                todo.setdefault(place, []).append(metric)
            else:
                results[*place, metric] = done
    if todo:
        each = len(bench.evaluator.seeds)
        with progress_bar() as bar:
            task = bar.add_task("cells", total=each * len(todo), note="")
            for index, (place, wanted) in enumerate(todo.items()):
                bar.update(task, completed=index * each, note=names[place])
                for metric, result in bench.measure(ready[place], wanted, lambda n: bar.advance(task, n)).items():
                    store.write(f"{names[place]}-{metric}", bench.identity(ready[place], metric), result)
                    results[*place, metric] = result
            bar.update(task, completed=each * len(todo), note="")
    return results


def _cell(found: Found, result: Result | None, lacking: str, paper: Mapping[str, Any]) -> Cell:
    cell = without_value(found, paper)
    if cell is not None:
        return cell
    assert isinstance(found, Ready)
    if result is None:
        return Cell("missing", why=lacking, **paper)
    if "failed" in result:
        return Cell("failed", why=result["failed"], **paper)
    details = {key: result[key] for key in ("calls", "evaluations", "seconds")}
    return Cell("measured", Interval(*result["value"]), details=details | {"solver": found.source or None}, **paper)


def _filled(
    table: str,
    spec: LatentSpec,
    bench: LatentBench | None,
    metric: str,
    counts: Sequence[int],
    rows: Mapping[str, tuple[Cell, ...]],
) -> Filled:
    value = METRICS[metric]
    if bench is not None:
        if metric == "fid" and bench.features is not None:
            value = bench.features.distance
        elif metric in SCORERS and metric in bench.scorers:
            value = bench.scorers[metric].name
        value = f"{value}, {bench.model.name}"
    return Filled(
        name=f"{table}-{metric}",
        title=spec.title,
        value=value,
        column="NFE",
        columns=tuple(map(str, counts)),
        rows=rows,
        notes=tuple(_notes(spec, bench, metric)),
        lower_is_better=metric in ("teacher", "fid"),
    )


def _notes(spec: LatentSpec, bench: LatentBench | None, metric: str) -> list[str]:
    notes = [spec.note] if spec.note else []
    if any(line.calls == 0 for line in spec.lines):
        notes.append("EPD's parallel evaluations count one by one in ours; the papers count those of a step as one")
    if bench is None or not bench.has(metric):
        return notes
    recipe, model = bench.recipe, bench.model
    seeds = f"ours: {recipe.blocks} blocks of {recipe.samples} images from seed {recipe.seed}"
    if metric == "fid":
        notes.append(f"{seeds}, reference {bench.reference}; intervals are Student's over blocks, 95 %")
    else:
        notes.append(f"{seeds}; intervals are over prompts, 95 %")
    if metric == "teacher":
        sampler = bench.teacher.sampler
        notes.append(f"teacher: {sampler.name}, {sampler.nfe} evaluations; the papers report no such number")
    elif spec.data is not None:
        notes.append(
            f"published: {spec.images} images of {spec.model}; ours are of {model.name} and so not the same quantity "
            "unless model, prompts, networks that look, reference and number of images are theirs"
        )
    return notes
