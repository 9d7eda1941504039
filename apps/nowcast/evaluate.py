"""`python -m apps.nowcast.evaluate`: score sampling methods of a nowcasting model on windows no training has seen."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from rich.progress import TaskID

from apps import listing
from apps.nowcast.aligned import Alignment, load_alignment_of
from apps.nowcast.data import SYNTHETIC, listed_windows, load_windows
from apps.nowcast.evaluate_options import EvaluateOptions, check
from apps.nowcast.evaluation import Evaluator, Scored, motions, wettest
from apps.nowcast.methods import Method, load_methods, parse_methods
from apps.nowcast.metrics import PerceptualDistance
from apps.nowcast.nowcaster import ASSETS, Nowcaster
from apps.nowcast.reporting import write_report
from apps.nowcast.reporting.provenance import command, versions
from apps.nowcast.step_counts import parse_counts
from apps.nowcast.table import Json
from apps.nowcast.tables.listing import tables
from apps.nowcast.verification.fractions import WINDOWS
from apps.nowcast.verification.results import Evaluation, show, write
from apps.nowcast.verification.scope import Events, Picture, Scope, differing
from apps.nowcast.verification.store import StatisticsStore, merged
from apps.processes import launch
from core.distributed import Fabric
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
    if options.list:
        _list(options)
        return
    try:
        if options.from_statistics is not None:
            _from_stores(options)
        else:
            _evaluate(options)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error


def _list(options: EvaluateOptions) -> None:
    rows = tables()
    if options.json is not None:
        listing.write(rows, Path(options.json), options.overwrite)
    listing.show(rows)


def _evaluate(options: EvaluateOptions) -> None:
    prepared = _prepare(options, options.device)  # what a user can get wrong is told before processes start
    fabric, device = launch(options.device, options.devices)
    evaluator, methods = prepared if device == options.device else _prepare(options, device)
    with _place(options, fabric) as path:
        store = _store(options, path, evaluator, fabric)
        evaluator.warm_up()
        _score(store, evaluator, methods, fabric)
        if fabric.global_rank == 0:
            finished = {method.label: method for method in store.methods()}
            _tell(options, [store], [Scored.of(finished[method.label]) for method in methods])
            if options.statistics is not None:
                console.print(f"statistics of {len(finished)} methods in {path}")
        fabric.barrier()


def _from_stores(options: EvaluateOptions) -> None:
    """Tell what stores hold."""
    stores = [StatisticsStore.open(path) for path in options.stores]
    _tell(options, stores, [Scored.of(method) for method in merged(stores)])


def _prepare(options: EvaluateOptions, device: str) -> tuple[Evaluator, list[Method]]:
    nowcaster = Nowcaster.load(options.model, device=device, precision=options.precision)
    methods = _methods(options, nowcaster, device)
    length = nowcaster.context_frames + nowcaster.target_frames
    events = SYNTHETIC_EVENTS if options.events is None and options.data == SYNTHETIC else options.events
    listed = listed_windows(options.windows, options.split)
    windows = load_windows(options.data, options.split, length, events=events, seed=options.seed, listed=listed)
    nowcaster.check(windows)
    evaluator = Evaluator(
        nowcaster,
        windows,
        _distance(options).to(device),
        options.members,
        options.seed,
        options.batch,
        wettest(windows, nowcaster.context_frames),
        device,
    )
    return evaluator, methods


@contextmanager
def _place(options: EvaluateOptions, fabric: Fabric) -> Iterator[Path]:
    """Where the statistics are kept: in the store of --statistics, or for the time of the run."""
    if options.statistics is not None:
        yield Path(options.statistics)
        return
    folder = fabric.broadcast(tempfile.mkdtemp(prefix="spanlift-") if fabric.global_rank == 0 else None)
    try:
        yield Path(folder) / "statistics.zarr"
    finally:
        if fabric.global_rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _store(options: EvaluateOptions, path: Path, evaluator: Evaluator, fabric: Fabric) -> StatisticsStore:
    """The store at `path`, made where there is none.

    Raises:
        UserError: it is of other events, or they are scored otherwise.
    """
    windows, quantity = evaluator.windows, evaluator.windows.quantity
    size = (windows.frames.shape[2], windows.frames.shape[3])
    leads = evaluator.nowcaster.target_frames
    scope = Scope(
        windows.fingerprint, quantity.name, quantity.thresholds, WINDOWS, leads, size, evaluator.distance.name
    )
    if fabric.global_rank == 0 and not path.exists():
        moved = motions(windows, evaluator.nowcaster.context_frames)
        events = Events(windows.ids, windows.sources, windows.times, windows.time_step_minutes, moved)
        event = evaluator.pictured
        up = windows.north_up[event] if windows.north_up else None
        picture = Picture(windows.ids[event], evaluator.context(event), evaluator.truth(event), up)
        about: dict[str, Json] = {
            "data": options.data,
            "split": options.split,
            "seed": options.seed,
            "anticipated": options.anticipated,
            "guide_scale": options.guide_scale if options.anticipated else None,
            "model": evaluator.nowcaster.identity,
            "command": command(),
            "versions": versions(),
        }
        StatisticsStore.create(path, scope, events, picture, about)
    fabric.barrier()
    store = StatisticsStore.open(path)
    if difference := differing(asdict(store.scope), asdict(scope)):
        raise UserError(f"expected statistics of these events in {path}, got another {difference}; name another store")
    return store


def _score(store: StatisticsStore, evaluator: Evaluator, methods: Sequence[Method], fabric: Fabric) -> None:
    with progress_bar() if fabric.global_rank == 0 else nullcontext() as bar:
        for method in methods:
            task = bar.add_task(method.label, total=len(evaluator.windows), note="") if bar else None

            def report(done: int, task: TaskID | None = task) -> None:
                if bar and task is not None:
                    bar.advance(task, done)

            evaluator.score_into(store, method, report, fabric)
            if bar and task is not None:
                bar.update(task, completed=len(evaluator.windows))  # others had their share


def _tell(options: EvaluateOptions, stores: Sequence[StatisticsStore], scored: Sequence[Scored]) -> None:
    told = options.members if options.from_statistics is None else max(s.members for s in scored)
    evaluation = gathered(stores, scored, told, options.cluster, options.baseline, options.kinds)
    show(evaluation)
    paths = write(evaluation, *options.paths)
    if options.report is not None:
        paths.append(write_report(Path(options.report), evaluation, command()))
    console.print(f"wrote {' and '.join(str(path) for path in paths)}")


def gathered(
    stores: Sequence[StatisticsStore],
    scored: Sequence[Scored],
    members: int,
    cluster: str,
    baseline: str | None,
    kinds: tuple[str, ...],
) -> Evaluation:
    """The evaluation of methods of stores of the same events; see `Evaluation`."""
    store, about = stores[0], stores[0].about
    return Evaluation(
        scored=scored,
        scope=store.scope,
        events=store.events,
        picture=store.picture,
        data=str(about["data"]),
        split=str(about["split"]),
        seed=int(about["seed"]),
        cluster=cluster,
        draws=RESAMPLES,
        baseline=baseline,
        kinds=kinds,
        told={"members": members, **{name: about[name] for name in ("anticipated", "guide_scale", "model")}},
        about=about,
    )


def _distance(options: EvaluateOptions) -> PerceptualDistance:
    """LPIPS where its weights are given, else what every installation has: never what a cache happens to hold."""
    return PerceptualDistance("auto" if options.weights else "efficientnet", options.weights)


def _alignment(options: EvaluateOptions, nowcaster: Nowcaster, device: str) -> Alignment | None:
    if options.anticipated is None:
        return None
    folder = ASSETS if options.model is None else Path(options.model)
    return load_alignment_of(nowcaster, options.anticipated, options.guide_scale, options.alignment, folder, device)


def _methods(options: EvaluateOptions, nowcaster: Nowcaster, device: str) -> list[Method]:
    methods = parse_methods(options.methods, nowcaster, _alignment(options, nowcaster, device))
    if options.solver is not None:
        paths = [path.strip() for path in options.solver.split(",") if path.strip()]
    elif options.model is None:
        paths = [str(ASSETS / name) for name in SHIPPED_SOLVERS]
    else:
        paths = []
    methods += load_methods(paths, nowcaster, device, () if options.nfe is None else parse_counts(options.nfe))
    if not methods:
        raise UserError("expected at least one method to score, got none; see --methods and --solver")
    unique: dict[str, Method] = {}
    for method in methods:
        if unique.setdefault(method.label, method) is not method:
            raise UserError(f"expected each method once, got {method.label} twice; check --methods and --solver")
    return methods


def _is_from(word: str) -> bool:
    """Whether a word is `--from`, which no Python name can be."""
    return word == "--from" or word.startswith("--from=")


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
  python -m apps.nowcast.evaluate --data out/knmi.zarr --events 2 --members 1 --methods ddim-100,ddpm-1000,heun-3
  python -m apps.nowcast.evaluate --data out/knmi.zarr --statistics out/knmi-stats.zarr --baseline persistence
  python -m apps.nowcast.evaluate --from out/knmi-stats.zarr --strata season,wetness --json out/s.json
  python -m apps.nowcast.evaluate --methods persistence,ddim-2,ddim-5,ddim-10 --report out/report.html
  python -m apps.nowcast.evaluate --list""",
        argv=["--from_statistics" + word.removeprefix("--from") if _is_from(word) else word for word in sys.argv[1:]],
        configs=CONFIGS,
    )
