"""`python -m apps.nowcast.forecast INPUT`: an ensemble nowcast from the latest radar frames, as a CF file."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apps.nowcast.evaluate import SHIPPED_SOLVERS
from apps.nowcast.forecasting.clock import Costs, Deadline
from apps.nowcast.forecasting.ensemble import Ensemble
from apps.nowcast.forecasting.inputs import open_source, read_scene
from apps.nowcast.forecasting.options import ForecastOptions, check, pictures_of
from apps.nowcast.forecasting.production import Nowcast, Order, Report, produce, warm_up
from apps.nowcast.forecasting.scene import Scene
from apps.nowcast.forecasting.watching import Landed, stamped, watch
from apps.nowcast.methods import Method, load_methods, parse_methods
from apps.nowcast.nowcaster import ASSETS, Nowcaster
from apps.nowcast.output.attributes import file_hashes
from apps.nowcast.output.leftovers import clear
from data_tools.archive import parse_utc
from data_tools.cli import UserError, console, joined, progress_bar, run

DEFAULT_SOLVER = ASSETS / SHIPPED_SOLVERS[1]
DEFAULT_METHOD = "ddim-20"
"""For models that come without a solver."""

RESERVE = 0.1
"""Of a deadline: kept for the fallback to be written, at least; more where writing was measured to take more."""


@dataclass(frozen=True)
class Service:
    """A model with its solver, loaded once for all nowcasts."""

    nowcaster: Nowcaster
    method: Method
    checkpoints: dict[str, str]

    @classmethod
    def load(cls, options: ForecastOptions) -> Service:
        """Raises UserError: the model or the solver is not what it should be."""
        nowcaster = Nowcaster.load(options.model, device=options.device, precision=options.precision)
        folder = ASSETS if options.model is None else Path(options.model)
        files = [folder / "autoencoder.safetensors", folder / "unet.safetensors"]
        name = options.solver or (str(DEFAULT_SOLVER) if options.model is None else DEFAULT_METHOD)
        if Path(name).exists() or "/" in name:
            counts = () if options.nfe is None else (options.nfe,)
            method = load_methods([name], nowcaster, options.device, counts)[-1]
            files.append(Path(name) / "solver.safetensors" if Path(name).is_dir() else Path(name))
        elif options.nfe is not None:
            raise UserError(f"expected no --nfe with --solver {name}, whose name tells its steps")
        else:
            method = _handcrafted(name, nowcaster)
        return cls(nowcaster, method, file_hashes(files))


def _handcrafted(name: str, nowcaster: Nowcaster) -> Method:
    methods = parse_methods(name, nowcaster)
    if len(methods) != 1 or methods[0].name in {"persistence", "ddpm"}:
        raise UserError(f"expected one --solver that draws no noise, a file or NAME-STEPS like ddim-20, got {name!r}")
    return methods[0]


def main(options: ForecastOptions) -> None:
    """Forecast once, or whenever a frame lands.

    Raises:
        UserError: model, input or output are not what they should be; nothing is written then.
    """
    check(options)
    service = Service.load(options)
    costs = Costs()
    if options.deadline is not None:
        costs = warm_up(Path(options.out), _order(options, service), service.nowcaster.target_frames)
    if options.watch is None:
        deadline = _deadline(options, time.monotonic(), costs)
        at = parse_utc(options.time, "--time") if options.time else None
        scene = _scene(service, options.input, options.event, at, deadline)
        _serve(options, service, scene, Path(options.out), deadline)
        return
    for place in (Path(options.out), *pictures_of(Path(options.out))):
        clear(place, stamped=True)

    def serve(landed: Landed) -> None:
        assert options.watch is not None
        out = stamped(Path(options.out), landed.time)
        if out.exists() and not options.overwrite:
            raise UserError(f"{out} is there already: waiting for the next frame")
        deadline = _deadline(options, landed.seen, costs)
        scene = _scene(service, options.watch, None, None, deadline)
        if scene.init_time != landed.time:
            raise UserError(f"the frame of {landed.time} cannot be used: {'; '.join(scene.notes)}")
        _serve(options, service, scene, out, deadline)

    console.print(f"watching {options.watch}", soft_wrap=True, highlight=False)
    watch(Path(options.watch), serve, poll=options.poll, runs=options.runs, complain=_say)


def _scene(
    service: Service, path: str, event: str | None, at: np.datetime64 | None, deadline: Deadline | None
) -> Scene:
    nowcaster = service.nowcaster
    return read_scene(open_source(path, event, at), nowcaster.context_frames, nowcaster.time_steps, at, deadline)


def _deadline(options: ForecastOptions, seen: float, costs: Costs) -> Deadline | None:
    if options.deadline is None:
        return None
    return Deadline(options.deadline, RESERVE * options.deadline, start=seen, costs=costs)


def _order(options: ForecastOptions, service: Service) -> Order:
    return Order(
        options.members, options.seed, options.thresholds, options.mean, service.checkpoints,
        command=f"python -m apps.nowcast.forecast {shlex.join(sys.argv[1:])}".strip(), institution=options.institution,
    )  # fmt: skip


def _serve(options: ForecastOptions, service: Service, scene: Scene, out: Path, deadline: Deadline | None) -> Nowcast:
    """Make one nowcast and tell of it."""
    began = time.monotonic()
    ensemble = Ensemble.build(
        service.nowcaster, service.method, scene,
        overlap=options.overlap, batch=options.batch, sample_dry=options.sample_dry,
    )  # fmt: skip
    for picture in pictures_of(out):
        clear(picture)
    try:
        with progress_bar() as bar:
            nowcast = produce(out, ensemble, _order(options, service), deadline, _reporting(bar))
    except FloatingPointError as error:
        raise UserError(str(error)) from error
    seconds = time.monotonic() - (deadline.start if deadline else began)
    written = [out]
    if options.plot:
        from apps.nowcast.output.pictures import draw

        written += draw(pictures_of(out)[0], scene, nowcast, options.thresholds)
    for line in _remarks(scene, nowcast):
        _say(line)
    if deadline and seconds > deadline.seconds:
        _say(f"late: it took {seconds:.1f} s, and {deadline.seconds:g} s were given")
    _say(f"wrote {' and '.join(map(str, written))} in {seconds:.1f} s")
    return nowcast


def _reporting(bar: object) -> Report:
    tasks: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total, note="")  # type: ignore[attr-defined]
        bar.update(tasks[what], completed=done)  # type: ignore[attr-defined]

    return report


def _remarks(scene: Scene, nowcast: Nowcast) -> list[str]:
    """What the user should know about this nowcast, a line each."""
    lines = [f"no frame at {wanted}, the one of {used} stands for it" for wanted, used in scene.substituted]
    lines += scene.notes
    if scene.missing_fraction:
        lines.append(f"{scene.missing_fraction:.1%} of the observed pixels are missing and were filled in time")
    if nowcast.provenance.fallback:
        lines.append(f"fell back to {nowcast.provenance.method}: {nowcast.provenance.fallback}")
    return lines


_say: Callable[[str], None] = lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False)  # noqa: E731


if __name__ == "__main__":
    run(
        ForecastOptions,
        main,
        prog="python -m apps.nowcast.forecast",
        description="Ensemble nowcast of a whole domain from the latest radar frames.",
        examples="""examples:
  python -m apps.nowcast.forecast radar/fmi/20170509 --members 20 --out nowcast.nc
  python -m apps.nowcast.forecast radar.nc --time 2017-05-09T13:00 --probabilities 0.1 1 5 --mean --plot
  python -m apps.nowcast.forecast out/knmi.zarr --members 8 --out nowcast.zarr
  python -m apps.nowcast.forecast --watch incoming --deadline 30 --out nowcasts/knmi.nc""",
        positional=[("input", "folder of radar frames, event store, CF netCDF file or Zarr store")],
        argv=joined("probabilities"),
    )
