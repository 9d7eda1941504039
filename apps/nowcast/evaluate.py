"""`python -m apps.nowcast.evaluate`: score sampling methods of a nowcasting model on windows no training has seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from rich.console import Console

from apps.nowcast.data import SYNTHETIC, Windows, load_windows
from apps.nowcast.evaluation import Evaluator, Method, Scored, load_method, parse_methods, wettest
from apps.nowcast.metrics import METRICS, PerceptualDistance, difference, recovered, resamples
from apps.nowcast.nowcaster import ASSETS, Nowcaster, Precision, check_device
from apps.nowcast.plots import plot_nowcasts
from apps.nowcast.table import TABLE_WIDTH, Json, estimate_as_json, evaluation_as_json, score_table
from core.fitting import write_atomically
from data_tools.cli import UserError, check_outputs, console, progress_bar, run

DEFAULT_JSON = "out/evaluation.json"
SHIPPED_SOLVERS = ("spanlift-teacher.safetensors", "spanlift-target.safetensors")
SYNTHETIC_EVENTS = 10
RESAMPLES = 2000

PAIRED = {
    "hss": ("HSS", 3),
    "csi": ("CSI", 3),
    "csi4": ("CSI-4", 3),
    "csi16": ("CSI-16", 3),
    "crps": ("CRPS", 4),
    "crps_fair": ("fair CRPS", 4),
    "lpips": ("LPIPS*", 3),
}
"""Metrics whose paired differences are shown, with headings and digits. The fair CRPS does not depend on the number of
members; that of the ensemble as it is favours too little spread where members are few."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of the command.

    Attributes:
        data: comma-separated event stores, and `storms` for synthetic storms made on the spot.
        split: part of the stores to score; training never sees test.
        events: at most so many windows of each source; all of a store by default, 10 of `storms` alone and 96 of
            `storms` beside stores.
        methods: comma-separated persistence, teacher, and NAME-STEPS with NAME among ddim, ddpm, heun, ipndm and
            adams-bashforth. DDPM-1000 takes long.
        solver: comma-separated trained solvers (files, or folders that hold solver.safetensors); by default the two
            that ship with the model, with --model or an empty value none.
        model: folder of the model; the shipped one by default.
        members: ensemble members per window.
        cluster: what is resampled for the intervals: events, or all events of one source and time together, which is
            the stricter choice where many tiles come from few moments.
        seed: of the members' noise and of synthetic storms.
        batch: windows x members sampled at once.
        weights: file of AlexNet or SqueezeNet 1.1 weights for LPIPS; an LPIPS-like distance on an installed network
            else.
        json: where to write the numbers; an existing file needs --overwrite, but for the default one.
        png: where to draw the picture; beside the JSON by default.
        overwrite: replace outputs that exist.
        device: cpu, cuda, cuda:1, ...
        precision: of the networks; the state and the scores stay in float32 and float64.
    """

    data: str = SYNTHETIC
    split: Literal["train", "val", "test"] = "test"
    events: int | None = None
    methods: str = "persistence,ddim-100,teacher,ddim-5,ipndm-5"
    solver: str | None = None
    model: str | None = None
    members: int = 2
    cluster: Literal["event", "time"] = "event"
    seed: int = 0
    batch: int = 16
    weights: str | None = None
    json: str | None = None
    png: str | None = None
    overwrite: bool = False
    device: str = "cpu"
    precision: Precision = "float32"

    @property
    def paths(self) -> tuple[Path, Path]:
        """(JSON, PNG)."""
        numbers = Path(self.json or DEFAULT_JSON)
        return numbers, Path(self.png) if self.png else numbers.with_suffix(".png")


def main(options: EvaluateOptions) -> None:
    """Score, print, write.

    Raises:
        UserError: model, data, solver, method or output are not what they should be.
    """
    _check(options)
    try:
        _evaluate(options)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error


def _evaluate(options: EvaluateOptions) -> None:
    nowcaster = Nowcaster.load(options.model, device=options.device, precision=options.precision)
    methods = _methods(options, nowcaster)
    length = nowcaster.context_frames + nowcaster.target_frames
    events = SYNTHETIC_EVENTS if options.events is None and options.data == SYNTHETIC else options.events
    windows = load_windows(options.data, options.split, length, events=events, seed=options.seed)
    nowcaster.check(windows)
    evaluator = Evaluator(
        nowcaster,
        windows,
        _distance(options).to(options.device),
        options.members,
        options.seed,
        options.batch,
        wettest(windows, nowcaster.context_frames),
        options.device,
    )
    evaluator.warm_up()
    scored = _score(evaluator, methods)
    if options.cluster == "time":
        scored = [replace(s, statistics=s.statistics.grouped(windows.moments)) for s in scored]
    weights = resamples(len(scored[0].statistics.events), RESAMPLES, options.seed)
    comparisons = compare(scored, weights)
    _show(options, evaluator, scored, weights, comparisons)
    _write(options, evaluator, scored, weights, comparisons)


def _check(options: EvaluateOptions) -> None:
    if options.seed < 0:
        raise UserError(f"expected --seed of 0 or more, got {options.seed}")
    for name in ("events", "members", "batch"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"expected --{name} of at least 1, got {value}")
    numbers, picture = options.paths
    own = options.json is None and options.png is None  # the default place is replaced by every run
    check_outputs([numbers, picture], options.overwrite or own)
    check_device(options.device)


def _distance(options: EvaluateOptions) -> PerceptualDistance:
    """LPIPS where its weights are given, else what every installation has: never what a cache happens to hold."""
    return PerceptualDistance("auto" if options.weights else "efficientnet", options.weights)


def _methods(options: EvaluateOptions, nowcaster: Nowcaster) -> list[Method]:
    methods = parse_methods(options.methods, nowcaster)
    if options.solver is not None:
        paths = [path.strip() for path in options.solver.split(",") if path.strip()]
    elif options.model is None:
        paths = [str(ASSETS / name) for name in SHIPPED_SOLVERS]
    else:
        paths = []
    for path in paths:
        methods.append(load_method(path, nowcaster, options.device, {method.label for method in methods}))
    if not methods:
        raise UserError("expected at least one method to score, got none; see --methods and --solver")
    unique: dict[str, Method] = {}
    for method in methods:
        if unique.setdefault(method.label, method) is not method:
            raise UserError(f"expected each method once, got {method.label} twice; check --methods and --solver")
    return methods


def _score(evaluator: Evaluator, methods: Sequence[Method]) -> list[Scored]:
    scored = []
    with progress_bar() as bar:
        for method in methods:
            task = bar.add_task(method.label, total=len(evaluator.windows), note="")
            scored.append(evaluator.score(method, lambda done, task=task: bar.advance(task, done)))
    return scored


def compare(scored: Sequence[Scored], weights: np.ndarray) -> list[dict[str, Json]]:
    """Each SpanLift solver against DDIM at as many steps, paired by event; how much of their loss it makes good.

    The share is None where 100 steps are not better than few beyond doubt: there is then nothing to make good.
    """
    comparisons: list[dict[str, Json]] = []
    by_name = {(s.method.name, s.method.steps): s for s in scored}
    many = by_name.get(("ddim", 100))
    for learned in (s for s in scored if s.method.supervision):
        few = by_name.get(("ddim", learned.method.steps))
        if few is None:
            continue
        names = (*PAIRED, "spread_skill", "hss_of_mean")
        row: dict[str, Json] = {"method": learned.method.label, "reference": few.method.label}
        for name in names:
            row[name] = estimate_as_json(difference(learned.statistics, few.statistics, METRICS[name], weights))
        if many is not None:
            lost = difference(many.statistics, few.statistics, METRICS["csi16"], weights)
            share = recovered(learned.statistics, few.statistics, many.statistics, METRICS["csi16"], weights)
            row["csi16_lost"] = estimate_as_json(lost)
            row["csi16_recovered"] = estimate_as_json(share) if lost.low > 0 else None  # else a share of nothing
        comparisons.append(row)
    return comparisons


def _show(
    options: EvaluateOptions,
    evaluator: Evaluator,
    scored: Sequence[Scored],
    weights: np.ndarray,
    comparisons: Sequence[dict[str, Json]],
) -> None:
    windows = evaluator.windows
    caption = (
        f"{len(windows)} events ({_sources(windows)}) at {len(set(windows.moments))} times, {options.members} members, "
        "thresholds "
        f"{', '.join(f'{t:g}' for t in windows.quantity.thresholds)} {'mm/h' if windows.quantity.logarithmic else ''}; "
        f"below each value its 95 % interval over {options.cluster}s. CRPS of [0, 1] values. "
        f"* {evaluator.distance.name}"
    )
    out = Console()
    out = out if out.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)  # a pipe has 80 columns
    out.print(score_table([s.row(weights) for s in scored], title=f"Nowcasts, {options.split} split", caption=caption))
    for row in comparisons:
        parts = [f"{heading} {_signed(row[name], digits=digits)}" for name, (heading, digits) in PAIRED.items()]
        out.print(f"{row['method']} minus {row['reference']}: {', '.join(parts)}", highlight=False)
        if row.get("csi16_recovered"):
            out.print(
                f"  makes good {_signed(row['csi16_recovered'], '')} of the CSI-16 that few steps lose", highlight=False
            )
        elif "csi16_lost" in row:
            lost = _signed(row["csi16_lost"])
            out.print(f"  no CSI-16 to make good: 100 steps minus few is {lost}", highlight=False)


def _signed(value: Json, sign: str = "+", digits: int = 3) -> str:
    estimate = cast("dict[str, Any]", value)
    parts = (estimate["value"], *estimate["ci95"])
    number, low, high = (float("nan") if part is None else part for part in parts)
    return f"{number:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _sources(windows: Windows) -> str:
    return ", ".join(f"{windows.sources.count(source)} {source}" for source in sorted(set(windows.sources)))


def _write(
    options: EvaluateOptions,
    evaluator: Evaluator,
    scored: Sequence[Scored],
    weights: np.ndarray,
    comparisons: Sequence[dict[str, Json]],
) -> None:
    numbers, picture = options.paths
    windows, event = evaluator.windows, evaluator.pictured
    content = evaluation_as_json(
        data=options.data,
        split=options.split,
        events=len(windows),
        seed=options.seed,
        rows=[s.row(weights) for s in scored],
        extra={
            "members": options.members,
            "cluster": options.cluster,
            "times": len(set(windows.moments)),
            "fingerprint": windows.fingerprint,
            "model": evaluator.nowcaster.identity,
            "perceptual_distance": evaluator.distance.name,
            "thresholds": list(windows.quantity.thresholds),
            "comparisons": list(comparisons),
        },
    )
    write_atomically(numbers, lambda path: path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n"))
    plot_nowcasts(
        picture,
        evaluator.context(event),
        evaluator.truth(event),
        {s.method.label: s.pictured[0] for s in scored},
        windows.quantity,
        step_minutes=float(windows.time_step_minutes[event]),
        title=f"{windows.ids[event]}: one member of each method",
        notes={s.method.label: f"{s.nfe} evaluations" for s in scored},
    )
    console.print(f"wrote {numbers} and {picture}")


if __name__ == "__main__":
    run(
        EvaluateOptions,
        main,
        prog="python -m apps.nowcast.evaluate",
        description="Score persistence, many-step sampling, the same model at few steps, and SpanLift solvers.",
        examples="""examples:
  python -m apps.nowcast.evaluate
  python -m apps.nowcast.evaluate --data out/knmi.zarr --split test --solver out/solver --json out/e.json
  python -m apps.nowcast.evaluate --data out/knmi.zarr --events 2 --members 1 --methods ddim-100,ddpm-1000,heun-3""",
    )
