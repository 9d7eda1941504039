"""From a scene to a file: members are written as they are sampled, or something simpler where they come too late."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from apps.nowcast.forecasting.clock import Costs, Deadline, TooLate
from apps.nowcast.forecasting.ensemble import Ensemble, member_seeds
from apps.nowcast.forecasting.extrapolation import Extrapolation, import_pysteps, move, move_by_pysteps, stay
from apps.nowcast.forecasting.scene import Place, Scene
from apps.nowcast.forecasting.summary import Summary
from apps.nowcast.output.attributes import Provenance, global_attributes
from apps.nowcast.output.formats import Writer, opened
from apps.nowcast.output.layout import Layout
from data_tools.projection import polar_stereographic_attributes
from data_tools.quantities import RAINFALL_RATE, Quantity
from data_tools.schema import pack, unpack

PICTURED = 3
"""Members that are kept for a picture."""

_PROBE = 256  # pixels a side of the field that costs are measured on

Report = Callable[[str, int, int], None]
"""(what is done, how much of it, of how much)."""


@dataclass(frozen=True)
class Order:
    """What to write.

    Attributes:
        members, seed: of the ensemble.
        thresholds: whose probabilities of exceedance are written.
        mean: whether the ensemble mean is.
        checkpoints: SHA-256 of the model's files by name.
        command, institution: for the attributes.
    """

    members: int
    seed: int = 0
    thresholds: tuple[float, ...] = ()
    mean: bool = False
    checkpoints: Mapping[str, str] | None = None
    command: str = "apps.nowcast.forecast"
    institution: str = "not told"


@dataclass(frozen=True)
class Nowcast:
    """What was written, and the few fields a picture needs.

    Attributes:
        members: (kept members, T, H, W) float32, NaN missing.
        mean: (T, H, W).
        probability: (T, H, W) of the first threshold, or None.
        provenance: how it was made.
    """

    members: np.ndarray
    mean: np.ndarray
    probability: np.ndarray | None
    provenance: Provenance


def produce(
    path: Path, ensemble: Ensemble, order: Order, deadline: Deadline | None = None, report: Report | None = None
) -> Nowcast:
    """Write a nowcast of the ensemble's scene to `path`, whole or not at all.

    With a deadline, persistence is at hand before anything is sampled, and is written as the only member as soon as the
    ensemble is seen to come too late: at the latest one evaluation of the network after all but the deadline's reserve
    has gone by. Which kind of persistence depends on what `Deadline.costs` leads to expect of the time that is left.

    Raises:
        OSError: the file cannot be written.
    """
    tell = report or (lambda what, done, total: None)
    if deadline is None:
        return _sampled(path, ensemble, order, None, tell)
    scene, leads = ensemble.scene, ensemble.nowcaster.target_frames
    deadline.keep_for_writing(scene.frames[0].size)
    spare = _timed("moving", move, scene, leads, deadline) or stay(scene, leads)
    try:
        if len(scene.frames) < ensemble.nowcaster.context_frames:
            raise TooLate(f"{len(scene.frames)} of {ensemble.nowcaster.context_frames} frames were read after "
                          f"{deadline.elapsed:.1f} s, and {deadline.seconds:g} s were given")  # fmt: skip
        return _sampled(path, ensemble, order, deadline, tell)
    except TooLate as late:
        better = _timed("moving by pysteps", move_by_pysteps, scene, leads, deadline)
        return _fallback(path, scene, order, better or spare, str(late), deadline)


def _timed(
    part: str,
    make: Callable[[Scene, int], Extrapolation | None],
    scene: Scene,
    leads: int,
    deadline: Deadline,
) -> Extrapolation | None:
    """What `make` makes, if the deadline allows; how long that took is remembered where it made anything."""
    pixels = scene.frames[0].size
    if not deadline.allows(part, pixels):
        return None
    began = deadline.elapsed
    made = make(scene, leads)
    if made is not None:
        deadline.costs.learn(part, pixels, deadline.elapsed - began)
    return made


def warm_up(path: Path, order: Order, leads: int) -> Costs:
    """What parts of a fallback take for a million pixels, measured on a small field of rain, imports left out.

    Args:
        path: of the output to come, whose suffix tells the format.
        order: what will be written.
        leads: frames of a forecast.
    """
    import_pysteps()
    scene, costs = _probe(), Costs()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / f"probe{path.suffix}"
        for _ in range(2):  # the first time pays for what is imported and compiled
            deadline = Deadline(math.inf)
            made = _timed("moving", move, scene, leads, deadline)
            _timed("moving by pysteps", move_by_pysteps, scene, leads, deadline)
            assert made is not None
            _fallback(place, scene, order, made, "", deadline)
            costs = deadline.costs
    return costs


def _probe() -> Scene:
    """Cells of rain that move, on a polar stereographic grid."""
    y, x = np.mgrid[:_PROBE, :_PROBE]
    frames = [np.maximum(8.0 * np.sin((x - 2 * k) / 9.0) * np.sin((y - k) / 7.0) - 3.0, 0.0) for k in range(4)]
    crs = polar_stereographic_attributes(
        central_longitude=10.0, true_latitude=60.0, semi_major=6371000.0, semi_minor=6371000.0
    )
    metres = 1000.0 * np.arange(_PROBE)
    times = np.datetime64("2000-01-01T00:00:00", "s") + np.arange(4) * np.timedelta64(300, "s")
    place = Place(metres, -3e6 - metres, "m", crs)
    return Scene(np.stack(frames).astype(np.float32), times, 300, RAINFALL_RATE, place, "probe", "none")


def _sampled(path: Path, ensemble: Ensemble, order: Order, deadline: Deadline | None, tell: Report) -> Nowcast:
    scene, seeds = ensemble.scene, member_seeds(order.seed, ensemble.scene, order.members)
    provenance = _provenance(ensemble, order, seeds)
    ensemble.prepare(_pacing("reading the frames", len(ensemble.active), deadline, tell))
    pace = _pacing("sampling tiles", order.members * len(ensemble.active), deadline, tell)
    with opened(path, _layout(scene, order, ensemble.nowcaster.target_frames)) as writer:
        collector = _Collector(writer, scene, order, ensemble.nowcaster.target_frames)
        for number, seed in enumerate(seeds):
            fields, nfe = ensemble.member(seed, pace, deadline.check_now if deadline else lambda: None)
            collector.add(number, fields)
            provenance = replace(provenance, nfe=nfe)
        return collector.finish(provenance)


def _fallback(path: Path, scene: Scene, order: Order, sent: Extrapolation, why: str, deadline: Deadline) -> Nowcast:
    """The extrapolation as an ensemble of one; how long that took is remembered."""
    order, began = replace(order, members=1), deadline.elapsed
    provenance = Provenance(sent.method, fallback=why, seed=order.seed)
    with opened(path, _layout(scene, order, len(sent.frames))) as writer:
        collector = _Collector(writer, scene, order, len(sent.frames))
        collector.add(0, sent.frames)
        nowcast = collector.finish(provenance)
    deadline.costs.learn("writing", scene.frames[0].size, deadline.elapsed - began)
    return nowcast


class _Collector:
    """Writes members and what is summed up over them."""

    def __init__(self, writer: Writer, scene: Scene, order: Order, leads: int) -> None:
        self.writer, self.scene, self.order = writer, scene, order
        self.layout = _layout(scene, order, leads)
        self.summary = Summary((leads, *scene.frames.shape[1:]), order.thresholds, mean=True)
        self.kept: list[np.ndarray] = []

    def add(self, number: int, fields: np.ndarray) -> None:
        fields = stored(fields, self.scene.quantity)
        self.writer.write(self.scene.quantity.name, number, fields)
        self.summary.add(fields)
        if number < PICTURED:
            self.kept.append(fields)

    def finish(self, provenance: Provenance) -> Nowcast:
        mean, shares = self.summary.mean(), None
        if self.order.mean:
            self.writer.write(self.layout.mean_name, None, mean)
        for number in range(len(self.order.thresholds)):
            share = self.summary.probability(number)
            shares = share if shares is None else shares
            self.writer.write(self.layout.probability_name, number, share)
        order = self.order
        self.writer.attributes(
            global_attributes(self.scene, provenance, command=order.command, institution=order.institution)
        )
        return Nowcast(np.stack(self.kept), mean, shares, provenance)


def stored(fields: np.ndarray, quantity: Quantity) -> np.ndarray:
    """Fields to the precision of the event stores, 0.01 mm/h of rain: finer digits are the network's, not the
    weather's, and take ten times the space."""
    return np.stack([unpack(pack(field, quantity), quantity) for field in fields])


def _layout(scene: Scene, order: Order, leads: int) -> Layout:
    times = scene.valid_times(leads)
    return Layout(scene.quantity, scene.place, scene.init_time, times, order.members, order.thresholds, order.mean)


def _provenance(ensemble: Ensemble, order: Order, seeds: list[int]) -> Provenance:
    method, tiling = ensemble.method, ensemble.tiling
    return Provenance(
        f"latent diffusion sampled by {method.label}",
        solver=f"{method.label}, {method.steps} steps",
        seeds=seeds,
        seed=order.seed,
        checkpoints=order.checkpoints,
        model=ensemble.nowcaster.identity,
        tiles=(len(tiling), len(ensemble.active)),
        overlap=tiling.overlap,
    )


def _pacing(what: str, total: int, deadline: Deadline | None, tell: Report) -> Callable[[int], None]:
    """What to call with the number of tiles done: it tells of them and sees to the deadline."""
    done, since = 0, deadline.elapsed if deadline else 0.0
    tell(what, 0, total)
    if deadline is not None and total:
        deadline.check_now()

    def advance(tiles: int) -> None:
        nonlocal done
        done += tiles
        tell(what, done, total)
        if deadline is not None:
            deadline.check(since, done, total)

    return advance
