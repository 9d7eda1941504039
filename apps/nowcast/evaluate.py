"""`python -m apps.nowcast.evaluate`: score sampling methods of a nowcasting model on windows no training has seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from apps.nowcast.aligned import Alignment, load_alignment_of
from apps.nowcast.calibration import calibrate, plot_calibration
from apps.nowcast.comparison import compare, lines
from apps.nowcast.data import SYNTHETIC, Windows, listed_windows, load_windows
from apps.nowcast.evaluate_options import EvaluateOptions, check
from apps.nowcast.evaluation import Evaluator, Scored, wettest
from apps.nowcast.methods import Method, load_methods, parse_methods
from apps.nowcast.metrics import PerceptualDistance, resamples
from apps.nowcast.nowcaster import ASSETS, Nowcaster
from apps.nowcast.plots import plot_nowcasts
from apps.nowcast.step_counts import parse_counts
from apps.nowcast.table import ENSEMBLE_COLUMNS, TABLE_WIDTH, Json, evaluation_as_json, score_table
from core.fitting import write_atomically
from data_tools.cli import UserError, console, progress_bar, run

CONFIGS = Path(__file__).parent / "configs/evaluate"
"""Rows of the paper's table, for `--config NAME`; those of training lie above."""
SHIPPED_SOLVERS = ("spanlift-teacher.safetensors", "spanlift-target.safetensors")
SYNTHETIC_EVENTS = 10
RESAMPLES = 2000


def main(options: EvaluateOptions) -> None:
    """Score, print, write.

    Raises:
        UserError: model, data, solver, method or output are not what they should be.
    """
    check(options)
    try:
        _evaluate(options)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error


def _evaluate(options: EvaluateOptions) -> None:
    nowcaster = Nowcaster.load(options.model, device=options.device, precision=options.precision)
    methods = _methods(options, nowcaster)
    length = nowcaster.context_frames + nowcaster.target_frames
    events = SYNTHETIC_EVENTS if options.events is None and options.data == SYNTHETIC else options.events
    listed = listed_windows(options.windows, options.split)
    windows = load_windows(options.data, options.split, length, events=events, seed=options.seed, listed=listed)
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


def _distance(options: EvaluateOptions) -> PerceptualDistance:
    """LPIPS where its weights are given, else what every installation has: never what a cache happens to hold."""
    return PerceptualDistance("auto" if options.weights else "efficientnet", options.weights)


def _alignment(options: EvaluateOptions, nowcaster: Nowcaster) -> Alignment | None:
    if options.anticipated is None:
        return None
    folder = ASSETS if options.model is None else Path(options.model)
    return load_alignment_of(
        nowcaster, options.anticipated, options.guide_scale, options.alignment, folder, options.device
    )


def _methods(options: EvaluateOptions, nowcaster: Nowcaster) -> list[Method]:
    methods = parse_methods(options.methods, nowcaster, _alignment(options, nowcaster))
    if options.solver is not None:
        paths = [path.strip() for path in options.solver.split(",") if path.strip()]
    elif options.model is None:
        paths = [str(ASSETS / name) for name in SHIPPED_SOLVERS]
    else:
        paths = []
    methods += load_methods(paths, nowcaster, options.device, () if options.nfe is None else parse_counts(options.nfe))
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
    ensembles = _ensembles(scored)
    if ensembles:
        caption = (
            f"{options.members} members; spread/RMSE and outliers, the share of wet pixels whose truth no two members "
            "enclose over that of a calibrated ensemble, are 1 where the ensemble is calibrated"
        )
        rows = [s.row(weights) for s in ensembles]
        out.print(score_table(rows, title="Ensembles", caption=caption, columns=ENSEMBLE_COLUMNS))
    for line in lines(comparisons):
        out.print(line, highlight=False)


def _ensembles(scored: Sequence[Scored]) -> list[Scored]:
    """The methods of more than one member."""
    return [s for s in scored if s.members > 1]


def _sources(windows: Windows) -> str:
    return ", ".join(f"{windows.sources.count(source)} {source}" for source in sorted(set(windows.sources)))


def _write(
    options: EvaluateOptions,
    evaluator: Evaluator,
    scored: Sequence[Scored],
    weights: np.ndarray,
    comparisons: Sequence[dict[str, Json]],
) -> None:
    numbers, picture, ensemble_picture = options.paths
    windows, event = evaluator.windows, evaluator.pictured
    step_minutes = float(windows.time_step_minutes[event])
    calibrations = [calibrate(s.method.label, s.statistics, weights) for s in _ensembles(scored)]
    content = evaluation_as_json(
        data=options.data,
        split=options.split,
        events=len(windows),
        seed=options.seed,
        rows=[s.row(weights) for s in scored],
        extra={
            "members": options.members,
            "anticipated": options.anticipated,
            "guide_scale": options.guide_scale if options.anticipated else None,
            "cluster": options.cluster,
            "times": len(set(windows.moments)),
            "fingerprint": windows.fingerprint,
            "model": evaluator.nowcaster.identity,
            "perceptual_distance": evaluator.distance.name,
            "thresholds": list(windows.quantity.thresholds),
            "comparisons": list(comparisons),
            "calibration": [each.as_json(step_minutes) for each in calibrations],
        },
    )
    write_atomically(numbers, lambda path: path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n"))
    plot_nowcasts(
        picture,
        evaluator.context(event),
        evaluator.truth(event),
        {s.method.label: s.pictured[0] for s in scored},
        windows.quantity,
        step_minutes=step_minutes,
        title=f"{windows.ids[event]}: one member of each method",
        notes={s.method.label: f"{s.nfe} evaluations" for s in scored},
    )
    if calibrations:
        title = f"{options.members} members, {len(windows)} events of {options.split}"
        plot_calibration(ensemble_picture, calibrations, step_minutes=step_minutes, title=title)
    console.print(f"wrote {numbers} and {picture}{f' and {ensemble_picture}' if calibrations else ''}")


if __name__ == "__main__":
    run(
        EvaluateOptions,
        main,
        prog="python -m apps.nowcast.evaluate",
        description="Score persistence, many-step sampling, the same model at few steps, and SpanLift solvers.",
        examples="""examples:
  python -m apps.nowcast.evaluate
  python -m apps.nowcast.evaluate --data out/knmi.zarr --split test --solver out/solver --json out/e.json
  python -m apps.nowcast.evaluate --solver out/range --nfe 2,3,5,10 --methods ddim-2,ddim-3,ddim-5,ddim-10
  python -m apps.nowcast.evaluate --model out/prediff --methods ddpm-1000,aligned-ddpm-1000 --anticipated 1.5x
  python -m apps.nowcast.evaluate --config ddim-5 --model out/prediff --data sevir-lr.zarr
  python -m apps.nowcast.evaluate --data out/knmi.zarr --events 2 --members 1 --methods ddim-100,ddpm-1000,heun-3""",
        configs=CONFIGS,
    )
