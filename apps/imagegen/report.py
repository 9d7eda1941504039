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
from rich.markup import escape
from rich.table import Table

from apps.imagegen.evaluation import Evaluator
from apps.imagegen.pictures import enlarged, sheet, tiled, write_png
from apps.imagegen.scored import ERROR, Scored, interval_kind, over_blocks
from core.fitting import write_atomically
from core.intervals import Interval

TABLE_WIDTH, MOST_WIDTH = 100, 1000
"""Columns of a terminal that a table is printed for at least, and at most: what is cut off would be wrong numbers."""
NAMES = ("precision", "recall")


def pairs(scored: Sequence[Scored]) -> list[tuple[Scored, Scored]]:
    """Each method with the first of as many evaluations; the teacher is left out."""
    found = []
    methods = [one for one in scored if not one.teacher]
    for _, group in groupby(methods, key=lambda one: one.sampler.nfe):
        first, *others = group
        found += [(one, first) for one in others]
    return found


def compare(scored: Sequence[Scored]) -> list[tuple[Scored, Scored, Interval]]:
    """(method, the first of as many calls, its distance minus that one's, paired by block); below 0 it is better."""
    return [(one, first, over_blocks(one.fd - first.fd)) for one, first in pairs(scored) if len(one.fd)]


def show(evaluator: Evaluator, scored: Sequence[Scored]) -> None:
    """Print the methods' scores, their differences and what they are of."""
    table = _table(evaluator, scored)
    wide = max(TABLE_WIDTH, Console(width=MOST_WIDTH).measure(table).maximum)  # a pipe has 80 columns
    out = Console()
    out = out if out.width >= wide else Console(width=wide)
    out.print(table)
    for one, first, difference in compare(scored):
        line = f"{one.sampler.label} minus {first.sampler.label}: {_shown(difference, '+')}"
        out.print(line, highlight=False)
    for one, first in pairs(scored):
        for name in one.values:
            line = f"{one.sampler.label} minus {first.sampler.label}, {name}: {_shown(one.mean(name, first), '+')}"
            out.print(line, highlight=False)
    for line in _notes(evaluator, scored):
        out.print(line, highlight=False, markup=False)


def _table(evaluator: Evaluator, scored: Sequence[Scored]) -> Table:
    features, reference = evaluator.features, evaluator.reference
    title, distances = evaluator.model.name, ()
    if features is not None and reference is not None:
        title, distances = f"{title}: {features.distance} to {reference.name}", (f"{features.distance} [95 %]", *NAMES)
    table = Table(title=escape(title), box=SIMPLE_HEAD)
    guided = any(one.guidance > 1 for one in scored)
    values = list(scored[0].values)
    for heading in ("method", "NFE", *(["calls"] if guided else [])):
        table.add_column(heading, no_wrap=True)
    for heading in (*distances, *(f"{value} [95 %]" for value in values), "ms/image"):
        table.add_column(heading, justify="right", no_wrap=True)
    images = evaluator.blocks * evaluator.samples
    for one in scored:
        table.add_row(
            f"teacher {one.sampler.name}" if one.teacher else one.sampler.name,
            str(one.evaluations),
            *([str(one.nfe)] if guided else []),
            *(_distances(one) if distances else []),
            *("-" if one.teacher and value == ERROR else _shown(one.mean(value)) for value in values),
            "-" if one.teacher else f"{1e3 * one.seconds / images:.2f}",
        )
    return table


def _distances(one: Scored) -> list[str]:
    shares = [f"{float(v.mean()):.3f}" if v is not None else "-" for v in map(one.neighbours, NAMES)]
    return [_shown(over_blocks(one.fd)), *shares]


def _notes(evaluator: Evaluator, scored: Sequence[Scored]) -> list[str]:
    """What the numbers are of, a line each."""
    notes = []
    blocks = f"{evaluator.blocks} block{'s' if evaluator.blocks > 1 else ''}"
    each = f"{blocks} of {evaluator.samples} images, the same seeds for all"
    if evaluator.features is not None and evaluator.reference is not None:
        interval = "Student's t over blocks" if evaluator.blocks > 1 else "none, for there is one block"
        if evaluator.blocks > 1 and scored[0].independent < evaluator.blocks * evaluator.samples:
            interval += " of the same prompts, so of noise alone"
        notes.append(
            f"features: {evaluator.features.name}; {each}; intervals: {interval}. "
            "Distances grow with fewer images: compare equal numbers."
        )
    else:
        notes.append(f"{each}; no Fréchet distance, for there is no --reference")
    if scored[0].values:
        notes.append(f"{', '.join(scored[0].values)}: intervals {_over_images(scored[0])}; differences are paired")
    notes += [f"{name}: {scorer.name}" for name, scorer in evaluator.scorers.items()]
    if evaluator.teacher is not None:
        notes.append(
            f"{ERROR}: root mean square of the difference of the last states from those of {_teacher(evaluator)}"
        )
    prompts = evaluator.model.prompts
    if prompts is not None:
        used = scored[0].independent
        notes.append(f"prompts: {used} of the {len(prompts.evaluation)} for evaluation in {prompts.name}")
        notes += [
            f"{one.label} was trained with other prompts or another split of them, so that some of these may be among "
            "those it was trained on: give the --prompts and --train_prompts of its training"
            for one in scored
            if one.trained_with not in ("", prompts.fingerprint)
        ]
    guidance = scored[0].guidance
    if guidance > 1:
        notes.append(f"guidance makes {guidance} network calls of an evaluation: NFE counts evaluations, as papers do")
    return notes


def _over_images(one: Scored) -> str:
    """Which intervals of single images are, and over what."""
    units = "images" if one.groups is None else "prompts"
    return f"{interval_kind(one.independent)} over {one.independent} {units[: -1 if one.independent == 1 else None]}"


def _teacher(evaluator: Evaluator) -> str:
    assert evaluator.teacher is not None
    sampler = evaluator.teacher.sampler
    return f"{sampler.name}, {sampler.nfe} evaluations"


def _shown(found: Interval, sign: str = "") -> str:
    mean, low, high = (f"{value:{sign}.3g}" for value in found)
    return mean if math.isnan(found.low) else f"{mean} \\[{low}, {high}]"  # rich reads bare brackets as markup


def write(evaluator: Evaluator, scored: Sequence[Scored], numbers: Path, picture: Path) -> None:
    """Write the scores as JSON, and a PNG of each method's images, each whole or not at all.

    The picture has a row of images for each method; where there are prompts, or a teacher, it is a table with a row for
    each seed, and a column for each method with its name above.
    """
    content = as_json(evaluator, scored)
    write_atomically(numbers, lambda path: path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n"))
    write_png(picture, _picture(evaluator, scored))


def _picture(evaluator: Evaluator, scored: Sequence[Scored]) -> Any:
    count = len(scored[0].pictured)
    texts = evaluator.model.texts(evaluator.seeds[:count])
    if texts is None and evaluator.teacher is None:
        pictured = torch.cat([one.pictured for one in scored]).numpy()
        return enlarged(tiled(pictured, columns=count))
    columns = sorted(scored, key=lambda one: not one.teacher)
    pictured = torch.stack([one.pictured for one in columns], 1).numpy()
    captions = texts or [f"seed {seed}" for seed in evaluator.seeds[:count]]
    return sheet(pictured, [f"{one.label.rpartition(' ')[0]}, NFE {one.evaluations}" for one in columns], captions)


def as_json(evaluator: Evaluator, scored: Sequence[Scored]) -> dict[str, Any]:
    """Model, reference, prompts, teacher, a row for each method, and the paired differences."""
    model, reference, features = evaluator.model, evaluator.reference, evaluator.features
    prompts, teacher = model.prompts, evaluator.teacher
    source = reference and {
        "name": reference.name,
        "images": reference.images,
        "fingerprint": reference.fingerprint or None,
    }
    return {
        "model": {"name": model.name, "identity": model.identity},
        "reference": source,
        "distance": None if features is None else features.distance,
        "interval": "student-t over blocks" if features is not None and evaluator.blocks > 1 else None,
        "interval_of_scores": _over_images(scored[0]) if scored[0].values else None,
        "prompts": prompts
        and {
            "name": prompts.name,
            "fingerprint": prompts.fingerprint,
            "evaluation": len(prompts.evaluation),
            "sampled": scored[0].independent,
        },
        "pictured": _pictured(evaluator, len(scored[0].pictured)),
        "teacher": teacher and {**teacher.sampler.written(), "network_calls": teacher.calls},
        "scorers": {name: scorer.name for name, scorer in evaluator.scorers.items()},
        "rows": [_row(evaluator, one) for one in scored],
        "comparisons": [
            {
                "method": one.sampler.label,
                "reference": first.sampler.label,
                **({"fd": _interval(over_blocks(one.fd - first.fd))} if len(one.fd) else {}),
                "scores": {name: _interval(one.mean(name, first)) for name in one.values},
            }
            for one, first in pairs(scored)
        ],
    }


def _pictured(evaluator: Evaluator, count: int) -> list[dict[str, Any]]:
    """Seeds of the picture's images, and their prompts where there are prompts."""
    seeds = evaluator.seeds[:count]
    texts = evaluator.model.texts(seeds)
    return [{"seed": seed} if texts is None else {"seed": seed, "prompt": texts[i]} for i, seed in enumerate(seeds)]


def _row(evaluator: Evaluator, one: Scored) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": one.sampler.name,
        "trained": one.sampler.trained,
        "teacher": one.teacher,
        "prompts_of_training": one.trained_with or None,
        "nfe": one.evaluations,
        "network_calls": one.nfe,
        "afs": one.sampler.afs,
        "samples": evaluator.samples,
        "blocks": evaluator.blocks,
        "seed": evaluator.seed,
        "features": None if evaluator.features is None else evaluator.features.name,
        "fd": _interval(over_blocks(one.fd)) if len(one.fd) else None,
        "fd_blocks": one.fd.tolist(),
    }
    for name in NAMES:
        values = one.neighbours(name)
        row[name] = None if values is None else float(values.mean())
        row[f"{name}_ci95"] = None if values is None else _interval(over_blocks(values))["ci95"]
    row["scores"] = {name: _interval(one.mean(name)) for name in one.values}
    return {**row, "seconds": None if one.teacher else one.seconds}


def _interval(found: Interval) -> dict[str, Any]:
    return {"value": found.mean, "ci95": None if math.isnan(found.low) else [found.low, found.high]}
