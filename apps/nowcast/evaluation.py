"""Scoring of sampling methods on windows: the same windows, the same noise, the same statistics for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from apps.nowcast.baselines import persistence
from apps.nowcast.data import Windows, member_seed, seen
from apps.nowcast.methods import Method
from apps.nowcast.metrics import METRICS, PerceptualDistance, Statistics, estimates, event_statistics
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.solvers import build_base
from apps.nowcast.stored_frames import advancing
from apps.nowcast.table import Row


@dataclass(frozen=True)
class Scored:
    """A method's statistics, its evaluations per member and its forecast of the pictured event (M, T, H, W)."""

    method: Method
    nfe: int
    statistics: Statistics
    pictured: np.ndarray

    @property
    def members(self) -> int:
        return self.statistics.arrays["ranks"].shape[-1] - 1

    def row(self, weights: np.ndarray) -> Row:
        scores = estimates(self.statistics, weights, METRICS)
        return Row(self.method.name, self.method.supervision, self.method.steps, self.nfe, scores)


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
        """Forecast every window with `method`; `report` is told the number of windows done."""
        rows, nfe, pictured = [], 0, np.empty(0)
        for index, frames, evaluations, seconds in self._forecasts(method):
            with torch.no_grad():
                statistics = event_statistics(
                    frames, self.truth(index), self.windows.quantity, distance=self.distance, seconds=seconds
                )
            rows.append((self.windows.ids[index], statistics))
            nfe = evaluations
            if index == self.pictured:
                pictured = frames
            report(1)
        return Scored(method, nfe, Statistics.stack(rows), pictured)

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

    def _forecasts(self, method: Method) -> Iterator[tuple[int, np.ndarray, int, float]]:
        """(window, frames (M, T, H, W) on the stored scale, evaluations, seconds) for every window."""
        if method.solver is None or method.grid is None:
            for index in range(len(self.windows)):
                start = time.perf_counter()
                frames = persistence(self.context(index), self.nowcaster.target_frames)[None]
                yield index, frames, 0, time.perf_counter() - start
            return
        per_batch = max(1, self.batch // self.members)
        for first in range(0, len(self.windows), per_batch):
            indices = range(first, min(first + per_batch, len(self.windows)))
            seeds = [member_seed(self.seed, self.windows.ids[i], m) for i in indices for m in range(self.members)]
            context = seen(self.windows, self.windows.frames[first : indices.stop, : self.nowcaster.context_frames])
            start = time.perf_counter()
            forecast = self.nowcaster.forecast(context.to(self.device), method.solver(seeds), method.grid, seeds)
            frames = self.windows.quantity.decode(forecast.frames)
            frames = frames.unflatten(0, (len(indices), self.members)).cpu().numpy()
            seconds = (time.perf_counter() - start) / len(indices)
            for index, members in zip(indices, frames, strict=True):
                yield index, members, forecast.nfe, seconds


def wettest(windows: Windows, context_frames: int) -> int:
    """The window whose future holds the most rain: the one worth a picture."""
    indices = advancing("looking for the wettest", range(len(windows)), windows.frames.nbytes)
    rain = [float(np.nan_to_num(windows.frames[index, context_frames:]).mean()) for index in indices]
    return int(np.argmax(rain))
