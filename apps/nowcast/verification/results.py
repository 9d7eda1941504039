"""An evaluation as it is told: tables, JSON, pictures. It needs no model, only the statistics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from apps.nowcast.calibration import Calibration, calibrate, plot_calibration
from apps.nowcast.comparison import against, compare, lines
from apps.nowcast.evaluation import Scored
from apps.nowcast.filling import filling_lines, fillings
from apps.nowcast.metrics import Resamples
from apps.nowcast.plots import plot_nowcasts
from apps.nowcast.table import (
    ENSEMBLE_COLUMNS,
    FEW_STEPS,
    TABLE_WIDTH,
    Json,
    Row,
    estimate_as_json,
    evaluation_as_json,
    score_table,
)
from apps.nowcast.verification.curves import Curve, Curves, curve_differences, curves
from apps.nowcast.verification.scope import Events, Picture, Scope
from apps.nowcast.verification.strata import estimates_of_parts, strata
from core.fitting import write_atomically
from data_tools.colours import COLOUR_SCALES
from data_tools.quantities import QUANTITIES, Quantity

ONE_LEAD_ENOUGH = {"roc", "reliability", "sharpness", "brier_parts"}
"""Scores whose JSON is of all lead times together; by lead time they are in `Evaluation.curves`."""

DIFFERENCES = (
    "csi", "hss", "csi4", "csi16", "fss", "fss_of_probability", "brier", "brier_fair", "crps", "crps_fair", "ssim",
    "lpips", "spectral_distance",
)  # fmt: skip
"""Scores whose paired differences from the baseline are told by lead time and threshold."""


@dataclass(frozen=True)
class Evaluation:
    """Methods scored on the same events.

    Attributes:
        scored: the methods, in the order of the table.
        scope, events, picture: what they were scored on, see `StatisticsStore`.
        data, split, seed: what the command was given, for people; the seed also draws the resamples.
        cluster: event or time, what is resampled.
        draws: resamples.
        baseline: label or name of the method that all are compared with; None for none.
        kinds: of strata.
        told: further entries of the JSON.
        about: how the statistics were made, as their store has it: command, versions, ...
    """

    scored: Sequence[Scored]
    scope: Scope
    events: Events
    picture: Picture
    data: str
    split: str
    seed: int
    cluster: str
    draws: int
    baseline: str | None
    kinds: tuple[str, ...]
    told: Mapping[str, Json]
    about: Mapping[str, Any]

    @property
    def quantity(self) -> Quantity:
        return QUANTITIES[self.scope.quantity]

    @property
    def members(self) -> int:
        """Of the largest ensembles."""
        return max(s.members for s in self.scored)

    @property
    def steps_minutes(self) -> list[float]:
        """Minutes between frames that events have; of several, lead times are pooled frame by frame."""
        return sorted({float(minutes) for minutes in self.events.time_step_minutes})

    @property
    def north_up(self) -> bool:
        """Whether row 0 of the event that is drawn is the northernmost; where nobody told, as the archives of the
        quantity usually have it."""
        told = self.picture.north_up
        return COLOUR_SCALES[self.scope.quantity].north_up if told is None else told

    @property
    def step_minutes(self) -> float:
        """Of the event that is drawn."""
        return float(self.events.time_step_minutes[self.events.ids.index(self.picture.event)])

    @property
    def ensembles(self) -> list[Scored]:
        """The methods of more than one member."""
        return [s for s in self.scored if s.members > 1]

    @cached_property
    def weights(self) -> Resamples:
        return self.resamples(np.ones(len(self.events), bool))

    def resamples(self, chosen: np.ndarray) -> Resamples:
        """Of a part of the events (events,)."""
        numbers, moments = np.flatnonzero(chosen), self.events.moments
        labels = [moments[number] for number in numbers] if self.cluster == "time" else None
        return Resamples(len(numbers), self.draws, self.seed, labels)

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Label -> the row of the table."""
        return {s.method.label: s.row(self.weights) for s in self.scored}

    @cached_property
    def comparisons(self) -> list[dict[str, Json]]:
        return compare(self.scored, self.weights)

    @cached_property
    def from_baseline(self) -> list[dict[str, Json]]:
        return [] if self.baseline is None else against(self.scored, self.baseline, self.weights)

    @cached_property
    def fillings(self) -> list[dict[str, Json]]:
        return fillings(((s.method.label, s.members, s.statistics) for s in self.scored), self.scope.size)

    @cached_property
    def curves(self) -> dict[str, dict[str, Curves]]:
        """Label -> score -> its values by lead time and threshold."""
        return {s.method.label: curves(s.statistics, self.weights) for s in self.scored}

    @cached_property
    def calibrations(self) -> list[Calibration]:
        return [calibrate(s.method.label, s.statistics, self.weights) for s in self.ensembles]

    @cached_property
    def parts(self) -> dict[str, Json]:
        """Kind of strata -> part -> how many events and each method's scores on them."""
        return _strata(self)


def show(evaluation: Evaluation) -> None:
    """Print the tables and the comparisons."""
    events, quantity = evaluation.events, evaluation.quantity
    sources = ", ".join(f"{events.sources.count(source)} {source}" for source in sorted(set(events.sources)))
    caption = (
        f"{len(events)} events ({sources}) at {len(set(events.moments))} times, {evaluation.members} members, "
        f"thresholds {', '.join(f'{t:g}' for t in evaluation.scope.thresholds)} "
        f"{'mm/h' if quantity.logarithmic else ''}; "
        f"below each value its 95 % interval over {evaluation.cluster}s; bold: the best of its column among samplers "
        f"of at most {FEW_STEPS} steps, methods without a network do not compete. CRPS of [0, 1] values. "
        f"* {evaluation.scope.distance}"
    )
    out = Console()
    out = out if out.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)  # a pipe has 80 columns
    rows = evaluation.rows
    out.print(score_table(list(rows.values()), title=f"Nowcasts, {evaluation.split} split", caption=caption))
    if evaluation.ensembles:
        caption = (
            f"{evaluation.members} members; spread/RMSE and outliers, the share of wet pixels whose truth no two "
            "members enclose over that of a calibrated ensemble, are 1 where the ensemble is calibrated; bold as above"
        )
        ensembles = [rows[s.method.label] for s in evaluation.ensembles]
        out.print(score_table(ensembles, title="Ensembles", caption=caption, columns=ENSEMBLE_COLUMNS))
    if len(steps := evaluation.steps_minutes) > 1:
        minutes = " and ".join(f"{step:g}" for step in steps)
        out.print(f"lead times are pooled frame by frame, of {minutes} minutes by event; minutes shown are those of "
                  f"{evaluation.picture.event}", highlight=False, soft_wrap=True)  # fmt: skip
    for line in [*lines([*evaluation.comparisons, *evaluation.from_baseline]), *filling_lines(evaluation.fillings)]:
        out.print(line, highlight=False)


def write(evaluation: Evaluation, numbers: Path, picture: Path, ensemble_picture: Path) -> list[Path]:
    """Write the JSON and the pictures; the paths of what was written."""
    write_atomically(numbers, lambda path: path.write_text(as_text(evaluation)))
    drawn = {s.method.label: s for s in evaluation.scored if s.pictured.size}
    plot_nowcasts(
        picture,
        evaluation.picture.context,
        evaluation.picture.truth,
        {label: s.pictured[0] for label, s in drawn.items()},
        evaluation.quantity,
        step_minutes=evaluation.step_minutes,
        north_up=evaluation.north_up,
        title=f"{evaluation.picture.event}: one member of each method",
        notes={label: f"{s.nfe} evaluations" for label, s in drawn.items()},
    )
    # one number of members fits one histogram: of the largest ensembles
    largest = [each for each in evaluation.calibrations if each.members == evaluation.members]
    if not largest:
        return [numbers, picture]
    title = f"{evaluation.members} members, {len(evaluation.events)} events of {evaluation.split}"
    plot_calibration(ensemble_picture, largest, step_minutes=evaluation.step_minutes, title=title)
    return [numbers, picture, ensemble_picture]


def as_text(evaluation: Evaluation) -> str:
    """The JSON file: short entries a line each, and the curves, which are long, a score a line."""
    scope, step = evaluation.scope, evaluation.step_minutes
    content = evaluation_as_json(
        data=evaluation.data,
        split=evaluation.split,
        events=len(evaluation.events),
        seed=evaluation.seed,
        rows=list(evaluation.rows.values()),
        extra={
            **evaluation.told,
            "cluster": evaluation.cluster,
            "times": len(set(evaluation.events.moments)),
            "fingerprint": scope.fingerprint,
            "perceptual_distance": scope.distance,
            "thresholds": list(scope.thresholds),
            "comparisons": evaluation.comparisons,
            "calibration": [each.as_json(step) for each in evaluation.calibrations],
            "windows": list(scope.windows),
            "lead_minutes": [step * lead for lead in range(1, scope.leads + 1)],
            "steps_minutes": list(evaluation.steps_minutes),
            "baseline": evaluation.baseline,
            "from_baseline": evaluation.from_baseline,
            "fillings": evaluation.fillings,
            "strata": evaluation.parts,
        },
    )
    long = {"verification": _lines(evaluation.curves), "verification_from_baseline": _lines(_differences(evaluation))}
    head = json.dumps(content, indent=2, allow_nan=False).removesuffix("\n}")
    return head + "".join(f',\n  "{name}": {{\n{text}\n  }}' for name, text in long.items()) + "\n}\n"


def _differences(evaluation: Evaluation) -> dict[str, dict[str, Curves]]:
    if evaluation.baseline is None:
        return {}
    by_label = {s.method.label: s for s in evaluation.scored}
    pairs = [(str(row["method"]), str(row["reference"])) for row in evaluation.from_baseline]
    return {
        label: curve_differences(
            by_label[label].statistics, by_label[reference].statistics, evaluation.weights, DIFFERENCES
        )
        for label, reference in pairs
    }


def _lines(methods: Mapping[str, Mapping[str, Curves]]) -> str:
    """{label: {score: ...}} without the outer braces."""
    blocks = []
    for label, scores in methods.items():
        texts = [f"      {json.dumps(name)}: {json.dumps(_as_json(each))}" for name, each in scores.items()]
        blocks.append(f"    {json.dumps(label)}: {{\n" + ",\n".join(texts) + "\n    }")
    return ",\n".join(blocks)


def _as_json(score: Curves) -> dict[str, Json]:
    content: dict[str, Json] = {"form": score.form, "all_leads": _curve_as_json(score.all_leads)}
    if score.name not in ONE_LEAD_ENOUGH:
        content["by_lead"] = _curve_as_json(score.by_lead)
    return content


def _curve_as_json(curve: Curve) -> dict[str, Json]:
    ends = {"value": curve.value, "low": curve.low, "high": curve.high}
    return {"dims": list(curve.dims), **{name: _nested(values) for name, values in ends.items()}}


def _nested(values: np.ndarray) -> Json:
    """Numbers of seven digits in nested lists; null for what is none."""
    if values.ndim:
        return [_nested(part) for part in values]
    return float(f"{float(values):.7g}") if np.isfinite(values) else None


def _strata(evaluation: Evaluation) -> dict[str, Json]:
    """Kind -> part -> how many events and each method's scores on them."""
    of = evaluation.scored[0].statistics
    parts = [
        (kind, name, chosen)
        for kind in evaluation.kinds
        for name, chosen in strata(kind, evaluation.events, of).items()
    ]
    weighted = [(chosen, evaluation.resamples(chosen)) for _, _, chosen in parts]
    each = {s.method.label: estimates_of_parts(s.statistics, weighted) for s in evaluation.scored} if parts else {}
    told: dict[str, dict[str, Json]] = {kind: {} for kind in evaluation.kinds}
    for number, (kind, name, chosen) in enumerate(parts):
        methods: dict[str, Json] = {
            label: {metric: estimate_as_json(value) for metric, value in found[number].items()}
            for label, found in each.items()
        }
        told[kind][name] = {"events": int(chosen.sum()), "methods": methods}
    return {**told}
