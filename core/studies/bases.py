"""Does one kind of correction serve any base solver, and what does it do over each? The controlled counterpart of
SpanLift's section 5.3 (table 5, figure 4, table 6), on the field of `core.studies.coupling`, whose flow is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from core.analysis import correction_sizes
from core.grids import build_grid
from core.intervals import Interval, bootstrap_mean
from core.operators import Corrected, ResidualConfig, spanlift
from core.schedules import EDM
from core.solvers.euler import Euler
from core.solvers.heun import Heun
from core.solvers.ipndm import IPNDM
from core.solvers.learned.dyweight import DyWeight, DyWeightConfig
from core.state import Solver, State, integrate
from core.studies.coupling import CouplingStudy, SineField, relative_error, train_on_sines

Base = Literal["euler", "heun", "ipndm", "dyweight"]
BASES: tuple[Base, ...] = ("euler", "heun", "ipndm", "dyweight")
HISTORY = 2
"""Slopes that iPNDM and DyWeight weigh, that operators see, and that span a step."""


class CorrectionRow(NamedTuple):
    """One step of a corrected rollout, with intervals over initial states.

    Attributes:
        step: index of the step.
        out_of_span: |R - P R| / |R| (SpanLift, table 6).
        magnitude: |R| relative to the base step, both without their part along the chord (figure 4).
        aim: cosine between the parts outside the span of the correction and of the exact update; the ratio alone
            would be near 1 for any direction.
    """

    step: int
    out_of_span: Interval
    magnitude: Interval
    aim: Interval


class BaseRow(NamedTuple):
    """One base with and without the operator, on held-out initial states, with intervals over these (means over seeds).

    Attributes:
        base, steps: which.
        nfe: evaluations of the field, with or without the operator.
        alone, corrected: relative L2 errors of the endpoint.
        gain: log10(alone / corrected), paired; above 0 where the operator helps.
        corrections: by step.
    """

    base: Base
    steps: int
    nfe: int
    alone: Interval
    corrected: Interval
    gain: Interval
    corrections: tuple[CorrectionRow, ...]


def study_bases(
    study: CouplingStudy, steps: Iterable[int], directory: Path, bases: Iterable[Base] = BASES
) -> list[BaseRow]:
    """Train a spatial operator of 3 x 3 over each base, and look at its corrections.

    Args:
        study: sizes; DyWeight and operator are trained for `iterations` each.
        steps: numbers of steps.
        directory: of the runs; one that was stopped goes on when started again.
        bases: which.
    """
    field = SineField(study.size, study.correlation)
    return [_row(study, field, base, count, directory) for count in steps for base in bases]


def build_base(base: Base, grid: Tensor) -> Solver:
    """The base, untrained."""
    if base == "dyweight":
        return DyWeight(DyWeightConfig(grid, base=IPNDM(HISTORY), history=HISTORY))
    return {"euler": Euler(), "heun": Heun(), "ipndm": IPNDM(HISTORY)}[base]


def corrected(base: Solver, study: CouplingStudy, steps: int, seed: int) -> Corrected:
    """The base with an untrained operator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = ResidualConfig(1, width=study.width, kernel=3, blocks=1, history=HISTORY, steps=steps)
        return spanlift(base, config, EDM())


def _row(study: CouplingStudy, field: SineField, name: Base, steps: int, directory: Path) -> BaseRow:
    grid = build_grid("karras", steps, study.sigma_max, study.sigma_min)
    x_T = field.draw(study.held_out, study.sigma_max, torch.Generator().manual_seed(2**31))
    exact = field.flow(x_T, grid[0], grid[-1])
    errors, sizes, nfe = [], [], 0
    for seed in study.seeds:
        base = build_base(name, grid)
        if isinstance(base, DyWeight):
            train_on_sines(base, study, field, grid, seed, directory / f"base-{name}-steps{steps}-seed{seed}")
        solver = corrected(base, study, steps, seed)
        train_on_sines(solver, study, field, grid, seed, directory / f"over-{name}-steps{steps}-seed{seed}")
        ends = [_end(field, each, x_T, grid) for each in (base, solver)]
        nfe = ends[1].nfe
        errors.append(torch.stack([relative_error(end.x, exact) for end in ends]))
        rows = correction_sizes(field, solver, x_T, grid, exact, flow=field.flow)
        sizes.append(torch.stack([torch.stack([row.out_of_span, row.magnitude, _known(row.aim)]) for row in rows]))
    alone, lifted = torch.stack(errors).mean(0)
    corrections = tuple(
        CorrectionRow(step, *map(bootstrap_mean, values)) for step, values in enumerate(torch.stack(sizes).mean(0))
    )
    gain = bootstrap_mean((alone / lifted).log10())
    return BaseRow(name, steps, nfe, bootstrap_mean(alone), bootstrap_mean(lifted), gain, corrections)


@torch.no_grad()
def _end(field: SineField, solver: Solver, x_T: Tensor, grid: Tensor) -> State:
    return integrate(field, solver, x_T, grid)


def _known(values: Tensor | None) -> Tensor:
    assert values is not None  # the flow is given
    return values
