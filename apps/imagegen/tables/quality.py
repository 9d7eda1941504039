"""Tables of Fréchet distances: methods by network calls, each cell scored on the same seeds against one reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from apps.imagegen.evaluation import Evaluator, check_seeds, load_reference, over_blocks
from apps.imagegen.features import FeatureName, Features, build_features
from apps.imagegen.models import FrozenModel
from apps.imagegen.published import Published
from apps.imagegen.references import fingerprint_of
from apps.imagegen.tables.ingredients import Found, Impossible, Missing, Ready, Refused, find
from apps.imagegen.tables.lines import Line, Spec
from apps.imagegen.tables.store import Result, Store
from apps.imagegen.tables.table import Cell, Filled
from core.intervals import Interval
from data_tools.cli import UserError, console, progress_bar


@dataclass(frozen=True)
class QualityRecipe:
    """What every cell shares.

    Attributes:
        samples: images of a block.
        blocks: of seeds, whose distances the interval is over; one block has no interval.
        seed: of the first image; the others follow.
    """

    samples: int = 1000
    blocks: int = 3
    seed: int = 0


class Bench:
    """A model with its reference, whose features are computed when the first cell needs them.

    Args:
        model: frozen.
        reference: source of images or moments, see `load_reference`.
        features: name of the network that looks.
        recipe: samples of a cell.
        batch: images at once, which no number depends on.
    """

    def __init__(
        self, model: FrozenModel, reference: str, features: FeatureName, recipe: QualityRecipe, batch: int
    ) -> None:
        for name, value, least in (("samples", recipe.samples, 2), ("blocks", recipe.blocks, 1), ("batch", batch, 1)):
            if value < least:
                raise UserError(f"expected --{name} of at least {least}, got {value}")
        check_seeds(recipe.seed, recipe.blocks * recipe.samples)
        self.model, self.reference, self.recipe, self.batch = model, reference, recipe, batch
        self.features: Features = build_features(features, model.image_channels, model.device)
        self._source = fingerprint_of(reference, model)

    @cached_property
    def evaluator(self) -> Evaluator:
        recipe = self.recipe
        with console.status("features of the reference"):
            reference = load_reference(self.reference, self.model, self.features)
        evaluator = Evaluator(
            self.model, self.features, reference, recipe.samples, recipe.blocks, recipe.seed, self.batch, pictured=1
        )
        evaluator.prepare()
        return evaluator

    def identity(self, ready: Ready) -> dict[str, Any]:
        """All that a cell depends on."""
        seen = {"features": self.features.name, "reference": self._source}
        return {"table": "quality", **ready.identity(self.model), **seen, **asdict(self.recipe)}

    def measure(self, ready: Ready, report: Callable[[int], object]) -> Result:
        """Scores of a method; where there are none, as of images that are not finite, why."""
        try:
            scored = self.evaluator.score(ready.sampler, report)
        except (ValueError, FloatingPointError) as error:
            return {"failed": str(error)}
        result: dict[str, Any] = {"calls": scored.nfe, "seconds": round(scored.seconds, 3), "fd": scored.fd.tolist()}
        for name in ("precision", "recall"):
            values = scored.neighbours(name)
            result[name] = None if values is None else float(values.mean())
        return result


def fill_quality(
    table: str,
    spec: Spec,
    bench: Bench | None,
    name: str,
    folder: str,
    counts: Sequence[int],
    store: Store,
    published: Published,
    lacking: str = "",
) -> Filled:
    """The table, each cell measured or read.

    Args:
        table: name.
        spec: its rows.
        bench: model and reference; None where one is lacking, and then every cell is missing.
        name: what the model is called on a command line.
        folder: of the trained solvers.
        counts: columns.
        store: of finished cells.
        published: numbers to stand beside.
        lacking: what would provide model or reference.
    """
    wanted = [(line, nfe) for line in spec.lines for nfe in counts]
    found: dict[tuple[Line, int], Found] = {
        place: Missing(lacking) if bench is None else find(bench.model, name, *place, folder, spec.base)
        for place in wanted
    }
    results = _results(bench, found, store)
    rows = {
        line.label: tuple(
            _cell(line, nfe, spec, found[line, nfe], results.get((line, nfe)), published) for nfe in counts
        )
        for line in spec.lines
    }
    return Filled(
        name=table,
        title=spec.title,
        value="Fréchet distance" if bench is None else f"{bench.features.distance}, {bench.model.name}",
        column="NFE",
        columns=tuple(map(str, counts)),
        rows=rows,
        notes=tuple(_notes(spec, bench)),
    )


def _results(bench: Bench | None, found: dict[tuple[Line, int], Found], store: Store) -> dict[tuple[Line, int], Result]:
    """Results of the cells that have what they need; those that are not finished are measured here."""
    ready = {place: method for place, method in found.items() if isinstance(method, Ready)}
    if bench is None or not ready:
        return {}
    results: dict[tuple[Line, int], Result] = {}
    each = bench.recipe.samples * bench.recipe.blocks
    names = {place: f"{place[0].key or place[0].solver}-nfe{place[0].spent(place[1])}" for place in ready}
    for place, method in ready.items():
        done = store.read(names[place], bench.identity(method))
        if done is not None:
            results[place] = done
    todo = [place for place in ready if place not in results]
    if todo:
        _ = bench.evaluator  # before the bar, which shares the line with its spinner
        with progress_bar() as bar:
            task = bar.add_task("cells", total=each * len(todo), note="")
            for index, place in enumerate(todo):
                bar.update(task, completed=index * each, note=names[place])
                result = bench.measure(ready[place], lambda count: bar.advance(task, count))
                store.write(names[place], bench.identity(ready[place]), result)
                results[place] = result
            bar.update(task, completed=each * len(todo), note="")
    return results


def _cell(
    line: Line,
    nfe: int,
    spec: Spec,
    found: Found,
    result: Result | None,
    published: Published,
) -> Cell:
    paper = printed(published, spec, line, nfe)
    lacking = without_value(found, paper)
    if lacking is not None:
        return lacking
    assert isinstance(found, Ready)
    assert result is not None
    if "failed" in result:
        return Cell("failed", why=result["failed"], **paper)
    details = {key: result[key] for key in ("calls", "seconds", "precision", "recall")}
    return Cell("measured", interval_of(result["fd"]), details=details | {"solver": found.source or None}, **paper)


def printed(published: Published, spec: Spec, line: Line, column: int, metric: str = "fid") -> dict[str, Any]:
    """What a paper says in the place of a cell: `published` and `source`, nothing where it says nothing."""
    if spec.data is None:
        return {}
    number = published.find(
        spec.data, line.published_solver or line.solver, column, metric, base=line.published_base,
        setting=line.setting, schedule=line.schedule,
    )  # fmt: skip
    return {} if number is None else {"published": number.value, "source": number.row.source}


def without_value(found: Found, paper: Mapping[str, Any]) -> Cell | None:
    """The cell of a method that cannot be measured; None of one that can."""
    match found:
        case Missing():
            return Cell("missing", why=found.command, **paper)
        case Impossible():
            return Cell("impossible", why=found.reason, **paper)
        case Refused():
            return Cell("failed", why=found.reason, **paper)
        case Ready():
            return None


def interval_of(distances: Sequence[float]) -> Interval:
    """Mean over blocks with Student's interval, without one where there is one block."""
    found = over_blocks(torch.tensor(distances, dtype=torch.float64))
    return found if len(distances) > 1 else Interval(found.mean, found.mean, found.mean)


def _notes(spec: Spec, bench: Bench | None) -> list[str]:
    notes = [spec.note] if spec.note else []
    if any(line.calls == 0 for line in spec.lines):
        notes.append("EPD's parallel evaluations count one by one in ours; the papers count those of a step as one")
    if any(line.published_base == "ipndm" and line.schedule and line.starts for line in spec.lines):
        notes.append(
            "methods of one call a step start analytically, as in the DyWeight paper; S4S, the source of S4S rows, "
            "does not mention it"
        )
    if bench is None:
        return notes
    recipe, model = bench.recipe, bench.model
    name = bench.features.name
    ours = f"{recipe.blocks} blocks of {recipe.samples} images from seed {recipe.seed}, features {name}, reference "
    notes.append(f"ours: {ours}{bench.reference}; intervals are Student's over blocks, 95 %")
    if spec.data is not None:
        notes.append(
            f"published: FID of 50000 images with the official checkpoints; ours are of {model.name} and so not the "
            "same quantity unless model, features, reference and number of images are theirs"
        )
    return notes
