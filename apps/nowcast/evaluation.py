"""Scoring of sampling methods on windows: the same windows, the same noise, the same statistics for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from apps.nowcast.data import Windows, member_seed, seen
from apps.nowcast.filling import beside
from apps.nowcast.methods import Method
from apps.nowcast.metrics import METRICS, PerceptualDistance, Statistics, Weights, estimates
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.solvers import build_base
from apps.nowcast.stored_frames import advancing
from apps.nowcast.table import Row
from apps.nowcast.verification.events import event_sums
from apps.nowcast.verification.store import StatisticsStore, StoredMethod
from apps.nowcast.weight_files import weights_hash
from core.distributed import Alone, Fabric
from data_tools.motion import displacement


@dataclass(frozen=True)
class Scored:
    """A method's statistics, its evaluations per member, its forecast of the pictured event (M, T, H, W) and, where it
    comes from a store, what it was run with."""

    method: Method
    nfe: int
    statistics: Statistics
    pictured: np.ndarray
    described: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: StoredMethod) -> Scored:
        """What a store has of a method."""
        told = stored.description
        method = Method(stored.label, told["name"], told["supervision"], told["steps"])
        return cls(method, stored.nfe, stored.statistics, stored.pictured, told)

    @property
    def members(self) -> int:
        return self.statistics.arrays["ranks"].shape[-1] - 1

    def row(self, weights: Weights) -> Row:
        scores = estimates(self.statistics, weights, METRICS)
        return Row(self.method.name, self.method.supervision, self.method.steps, self.nfe, scores)


class Made(NamedTuple):
    """A window's forecast.

    Attributes:
        index: of the window.
        frames: (M, T, H, W) on the stored scale.
        nfe: network evaluations of a member.
        seconds: that all members took.
        beside: (T,) sums that this way to forecast alone has.
    """

    index: int
    frames: np.ndarray
    nfe: int
    seconds: float
    beside: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Scores methods on windows.

    Attributes:
        nowcaster: the frozen model.
        windows: context and target frames side by side.
        members: ensemble members per window.
        seed: of the members' noise.
        batch: rows (windows x members) sampled at once.
        pictured: index of the window whose forecasts are kept for the picture.
    """

    nowcaster: Nowcaster
    windows: Windows
    distance: PerceptualDistance
    members: int
    seed: int
    batch: int
    pictured: int
    device: str

    def score(self, method: Method, report: Callable[[int], None]) -> Scored:
        """Forecast every window with `method`, in memory; `report` is told the number of windows done."""
        rows, nfe, pictured = [], 0, np.empty(0)
        for made in self._forecasts(method):
            rows.append((self.windows.ids[made.index], self._sums(made)))
            nfe = made.nfe
            if made.index == self.pictured:
                pictured = made.frames
            report(1)
        return Scored(method, nfe, Statistics.stack(rows), pictured)

    def score_into(
        self, store: StatisticsStore, method: Method, report: Callable[[int], None], fabric: Fabric | None = None
    ) -> None:
        """Forecast every window that the store has no statistics of by `method`; several processes share them.

        A batch is always of the same windows, whichever of them are there already and whoever forecasts it: networks
        round differently for batches of different sizes.

        Raises:
            UserError: the store has a method of that label that is another.
        """
        fabric, description = fabric or Alone(), self.description(method)
        found = store.find(description)
        fabric.barrier()  # nobody makes the group while another looks for it
        if found is not None:
            report(len(self.windows))
            return
        if fabric.global_rank == 0:
            store.pending(description)
        fabric.barrier()
        pending = store.pending(description)
        done = pending.done()
        for number, indices in enumerate(self._batches(method)):
            if done.issuperset(indices):
                report(len(indices))
            elif number % fabric.world_size == fabric.global_rank:
                for made in self._forecasts(method, [indices]):
                    if made.index == self.pictured:
                        pending.put_picture(made.frames)
                    if made.index not in done:
                        pending.put(made.index, self._sums(made), made.nfe)
                    report(1)
        fabric.barrier()
        if fabric.global_rank == 0:
            store.finish(description)
        fabric.barrier()

    def description(self, method: Method) -> dict[str, Any]:
        """All that a method's forecasts depend on beside the windows, as JSON."""
        told: dict[str, Any] = {
            "label": method.label,
            "name": method.name,
            "supervision": method.supervision,
            "steps": method.steps,
        }
        if method.forecaster is not None:
            told |= method.forecaster.settings
            several = {"members": self.members, "seed": self.seed}
            return told | (several if method.forecaster.stochastic else {"members": 1})
        assert method.solver is not None
        solver = method.solver([0])
        learned = weights_hash(solver) if isinstance(solver, nn.Module) else None
        model = {"model": self.nowcaster.identity, "precision": self.nowcaster.precision}
        return {**told, "members": self.members, "seed": self.seed, "batch": self.batch, "solver": learned, **model}

    def context(self, index: int) -> np.ndarray:
        """Observed frames before the forecast on the stored scale, NaN where missing."""
        return self.windows.frames[index, : self.nowcaster.context_frames]

    def truth(self, index: int) -> np.ndarray:
        """Observed frames of the forecast's times on the stored scale, NaN where missing."""
        return self.windows.frames[index, self.nowcaster.context_frames :]

    def warm_up(self) -> None:
        """One forecast of one step, unscored: the first method timed shall not pay for what all share."""
        context = seen(self.windows, self.windows.frames[:1, : self.nowcaster.context_frames]).to(self.device)
        solver = build_base("ddim", self.nowcaster.schedule)
        self.nowcaster.forecast(context, solver, self.nowcaster.grid(1), [0] * self.members)

    def _sums(self, made: Made) -> dict[str, np.ndarray]:
        truth, quantity = self.truth(made.index), self.windows.quantity
        with torch.no_grad():
            sums = event_sums(made.frames, truth, quantity, distance=self.distance, seconds=made.seconds)
        return sums | made.beside

    def _batches(self, method: Method) -> list[range]:
        """Windows that are forecast together."""
        size = 1 if method.forecaster is not None else max(1, self.batch // self.members)
        return [range(first, min(first + size, len(self.windows))) for first in range(0, len(self.windows), size)]

    def _forecasts(self, method: Method, batches: Sequence[range] | None = None) -> Iterator[Made]:
        """The forecast of every window of the batches."""
        for indices in self._batches(method) if batches is None else batches:
            yield from self._without_model(method, indices) if method.forecaster else self._sampled(method, indices)

    def _without_model(self, method: Method, indices: range) -> Iterator[Made]:
        assert method.forecaster is not None
        for i in indices:
            context, leads, quantity = self.context(i), self.nowcaster.target_frames, self.windows.quantity
            start = time.perf_counter()
            made = method.forecaster(
                context, leads, self._seeds([i]), float(self.windows.time_step_minutes[i]), quantity
            )
            seconds = time.perf_counter() - start
            yield Made(i, made.frames, 0, seconds, beside(made) if method.forecaster.settings else {})

    def _sampled(self, method: Method, indices: range) -> Iterator[Made]:
        assert method.solver is not None and method.grid is not None  # noqa: PT018 - this is no test
        seeds = self._seeds(indices)
        observed = self.windows.frames[indices.start : indices.stop, : self.nowcaster.context_frames]
        context = seen(self.windows, observed).to(self.device)
        start = time.perf_counter()
        forecast = self.nowcaster.forecast(context, method.solver(seeds), method.grid, seeds)
        decoded = self.windows.quantity.decode(forecast.frames)
        frames = decoded.unflatten(0, (len(indices), self.members)).cpu().numpy()
        seconds = (time.perf_counter() - start) / len(indices)
        for index, members in zip(indices, frames, strict=True):
            yield Made(index, members, forecast.nfe, seconds, {})

    def _seeds(self, indices: Sequence[int]) -> list[int]:
        """The members' seeds of windows, those of a window side by side."""
        return [member_seed(self.seed, self.windows.ids[i], m) for i in indices for m in range(self.members)]


def wettest(windows: Windows, context_frames: int) -> int:
    """The window whose future holds the most rain: the one worth a picture."""
    indices = advancing("looking for the wettest", range(len(windows)), windows.frames.nbytes)
    rain = [float(np.nan_to_num(windows.frames[index, context_frames:]).mean()) for index in indices]
    return int(np.argmax(rain))


def motions(windows: Windows, context_frames: int) -> np.ndarray:
    """Pixels that rain moved between the last two frames before each forecast, (windows,); NaN where there was none."""
    found = np.full(len(windows), np.nan)
    for index in advancing("measuring motion", range(len(windows)), windows.frames.nbytes):
        before, after = np.nan_to_num(windows.frames[index, max(0, context_frames - 2) : context_frames])[[0, -1]]
        if before.any() and after.any():
            found[index] = np.hypot(*displacement(before, after))
    return found
