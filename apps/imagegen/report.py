"""What an evaluation says: a table on the screen, paired differences, JSON, and a picture of each method's images."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from apps.imagegen.evaluation import Evaluator, Scored, over_blocks
from apps.imagegen.pictures import enlarged, tiled, write_png
from core.fitting import write_atomically
from core.intervals import Interval

TABLE_WIDTH = 100
NAMES = ("precision", "recall")


def compare(scored: Sequence[Scored]) -> list[tuple[Scored, Scored, Interval]]:
    """(method, the first of as many calls, its distance minus that one's, paired by block); below 0 it is better."""
    found = []
    for _, group in groupby(scored, key=lambda one: one.sampler.nfe):
        first, *others = group
        found += [(one, first, over_blocks(one.fd - first.fd)) for one in others]
    return found


def show(evaluator: Evaluator, scored: Sequence[Scored]) -> None:
    """Print the methods' scores, their differences and what they are of."""
    out = Console()
    out = out if out.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)  # a pipe has 80 columns
    out.print(_table(evaluator, scored))
    for one, first, difference in compare(scored):
        line = f"{one.sampler.label} minus {first.sampler.label}: {_shown(difference, '+')}"
        out.print(line, highlight=False)
    interval = "Student's t over blocks" if evaluator.blocks > 1 else "none, for there is one block"
    out.print(
        f"features: {evaluator.features.name}; {evaluator.blocks} blocks of {evaluator.samples} images, the same seeds "
        f"for all; intervals: {interval}. Distances grow with fewer images: compare equal numbers.",
        highlight=False,
    )


def _table(evaluator: Evaluator, scored: Sequence[Scored]) -> Table:
    name, reference = evaluator.features.distance, evaluator.reference
    table = Table(title=f"{evaluator.model.name}: {name} to {reference.name}", box=SIMPLE_HEAD)
    for heading in ("method", "NFE"):
        table.add_column(heading, no_wrap=True)
    for heading in (f"{name} [95 %]", "precision", "recall", "ms/image"):
        table.add_column(heading, justify="right", no_wrap=True)
    images = evaluator.blocks * evaluator.samples
    for one in scored:
        shares = [f"{float(v.mean()):.3f}" if v is not None else "-" for v in map(one.neighbours, NAMES)]
        cells = [
            one.sampler.name,
            str(one.nfe),
            _shown(over_blocks(one.fd)),
            *shares,
            f"{1e3 * one.seconds / images:.2f}",
        ]
        table.add_row(*cells)
    return table


def _shown(found: Interval, sign: str = "") -> str:
    mean, low, high = (f"{value:{sign}.3g}" for value in found)
    return mean if math.isnan(found.low) else f"{mean} \\[{low}, {high}]"  # rich reads bare brackets as markup


def write(evaluator: Evaluator, scored: Sequence[Scored], numbers: Path, picture: Path) -> None:
    """Write the scores as JSON, and a PNG with a row of images for each method, each whole or not at all."""
    content = as_json(evaluator, scored)
    write_atomically(numbers, lambda path: path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n"))
    pictured = torch.cat([one.pictured for one in scored]).numpy()
    write_png(picture, enlarged(tiled(pictured, columns=len(scored[0].pictured))))


def as_json(evaluator: Evaluator, scored: Sequence[Scored]) -> dict[str, Any]:
    """Model, reference, a row for each method, and the paired differences."""
    reference = evaluator.reference
    source = {"name": reference.name, "images": reference.images, "fingerprint": reference.fingerprint or None}
    return {
        "model": {"name": evaluator.model.name, "identity": evaluator.model.identity},
        "reference": source,
        "distance": evaluator.features.distance,
        "interval": "student-t over blocks" if evaluator.blocks > 1 else None,
        "rows": [_row(evaluator, one) for one in scored],
        "comparisons": [
            {"method": one.sampler.label, "reference": first.sampler.label, "fd": _interval(difference)}
            for one, first, difference in compare(scored)
        ],
    }


def _row(evaluator: Evaluator, one: Scored) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": one.sampler.name,
        "trained": one.sampler.trained,
        "nfe": one.nfe,
        "afs": one.sampler.afs,
        "samples": evaluator.samples,
        "blocks": evaluator.blocks,
        "seed": evaluator.seed,
        "features": evaluator.features.name,
        "fd": _interval(over_blocks(one.fd)),
        "fd_blocks": one.fd.tolist(),
    }
    for name in NAMES:
        values = one.neighbours(name)
        row[name] = None if values is None else float(values.mean())
        row[f"{name}_ci95"] = None if values is None else _interval(over_blocks(values))["ci95"]
    return {**row, "seconds": one.seconds}


def _interval(found: Interval) -> dict[str, Any]:
    return {"value": found.mean, "ci95": None if math.isnan(found.low) else [found.low, found.high]}
