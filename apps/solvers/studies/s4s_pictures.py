"""What the figures of S4S show: coefficients over steps and epochs, the relaxed objective against its radius (Frankel
et al. 2025, arXiv 2502.17423, figures 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from apps.solvers.studies.fitted import distance, errors, first, fit_relaxed
from apps.solvers.studies.s4s import S4SStudy, Variant, build, coefficients
from core.intervals import Interval, bootstrap_mean
from core.relaxation import NoisePool
from core.solvers.learned.s4s_lms import S4SMultistep
from core.supervision import Example


class Paths(NamedTuple):
    """Coefficients b (steps, k), newest evaluation first, of iPNDM and on the way from there.

    Attributes:
        start: (steps, k) of iPNDM.
        epochs: (seeds, epochs, steps, k) at the end of every epoch; the last are the learned ones.
    """

    start: Tensor
    epochs: Tensor

    @property
    def final(self) -> Tensor:
        """(seeds, steps, k)."""
        return self.epochs[:, -1]


def coefficient_paths(study: S4SStudy, steps: int, seeds: Iterable[int], grid: str = "karras") -> Paths:
    """Coefficients of S4S over iPNDM of order 3, one training a seed.

    Args:
        study: task and training; an epoch is as many iterations as the pairs have whole batches.
        steps: of the grid, the network calls.
        seeds: of the order of the pairs.
        grid: see `S4SStudy.grid`.
    """
    times, variant = study.grid(grid, steps), Variant()
    pairs = study.training.pairs or len(study.task.pool.x_T)
    epoch = pairs // study.training.batch
    runs = []
    for seed in seeds:
        solver, seen = build(variant, times), []
        assert isinstance(solver, S4SMultistep)

        def note(iteration: int, values: Mapping[str, float], solver: S4SMultistep = solver, seen: list = seen) -> None:
            if (iteration + 1) % epoch == 0 or iteration + 1 == study.training.iterations:
                seen.append(coefficients(solver))

        fit_relaxed(solver, study.task, times, replace(study.training, seed=seed), loss=distance, report=note)
        runs.append(torch.stack(seen))
    untrained = build(variant, times)
    assert isinstance(untrained, S4SMultistep)
    return Paths(coefficients(untrained), torch.stack(runs))


class RadiusRow(NamedTuple):
    """One radius of the relaxed objective.

    Attributes:
        radius: of the ball around x_T, over sqrt(d) sigma_T, the length of a typical x_T.
        relaxed: error of the training pairs from their own x'_T, root mean square over a sample: the objective.
        training: the same from x_T.
        held_out: of noise that was not trained on, the mean over samples with its interval.
    """

    radius: float
    relaxed: Interval
    training: Interval
    held_out: Interval


def study_radius(
    study: S4SStudy, radii: Iterable[float], nfe: int, grid: str = "karras", variant: Variant | None = None
) -> list[RadiusRow]:
    """S4S trained with balls of several radii, relative to the length of the noise.

    Args:
        study: task and training, of its first seed.
        radii: see `RadiusRow`; 0 is the plain objective.
        nfe: network calls.
        grid: see `S4SStudy.grid`.
        variant: of one call a step and learned coefficients; `Variant()` where not given.
    """
    times = study.grid(grid, nfe)
    training = replace(study.training, seed=study.seeds[0])
    pairs = first(study.task.pool, training.pairs)
    length = pairs.x_T[0].numel() ** 0.5 * float(times[0])
    rows = []
    for radius in radii:
        solver = build(variant or Variant(), times)
        assert isinstance(solver, S4SMultistep)
        pool = NoisePool(pairs.x_T, radius * length, rate=0.3)
        fit_relaxed(solver, study.task, times, training, pool=pool, loss=distance)
        moved = Example(pool.x_T + pool.offsets, None, pairs.endpoint)
        found = [errors(solver, study.task, times, pairs=of) for of in (moved, pairs, study.task.held_out)]
        rows.append(RadiusRow(radius, *(bootstrap_mean(value) for value in found)))
    return rows
