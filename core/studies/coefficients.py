"""Are the coefficients of Adams-Bashforth the best ones when steps are few? The numerical study of DyWeight (Zhao et
al. 2026, arXiv 2603.11607, section 3.2 and appendix D.1), on the ODE of `core.studies.coupled_drift`.

The paper fits and measures on the truth alone; here coefficients are fitted on some starts and also measured on others,
all with exact solutions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from core.fitting import FitConfig
from core.intervals import Interval, bootstrap_mean
from core.solvers.ipndm import IPNDM
from core.studies.coupled_drift import (
    CoupledDrift,
    draw_problems,
    endpoint_errors,
    even_grid,
    fit_coefficients,
)

TEACHER_STEPS = 100


@dataclass(frozen=True)
class CoefficientStudy:
    """Sizes of the study.

    Attributes:
        problems: drawn independently, each with coefficients of its own.
        dimension: D.
        starts: initial states per problem to fit on: the truth's own, and others off by unit normal draws.
        held_out: further initial states to measure on.
        iterations, learning_rate: of Adam.
        seed: of the problems and states.
    """

    problems: int = 16
    dimension: int = 50
    starts: int = 4
    held_out: int = 8
    iterations: int = 400
    learning_rate: float = 2e-2
    seed: int = 0


class CoefficientRow(NamedTuple):
    """Relative L2 errors of the endpoint for one setting, with intervals over problems.

    Attributes:
        degree: K of the truth.
        steps: S; the first `GIVEN_STATES` - 1 of them are given.
        order: of Adams-Bashforth.
        standard, optimised: on held-out starts.
        gain: log10(standard / optimised), paired; above 0 where learned coefficients are better.
        truth_standard, truth_optimised: on the truth's own trajectory, which was fitted on, as in the paper.
    """

    degree: int
    steps: int
    order: int
    standard: Interval
    optimised: Interval
    gain: Interval
    truth_standard: Interval
    truth_optimised: Interval


def teacher_errors(study: CoefficientStudy, degrees: Iterable[int], steps: int = TEACHER_STEPS) -> list[Interval]:
    """Relative L2 errors on held-out starts of a teacher, Adams-Bashforth of order 4 with many steps, by degree."""
    found = []
    for degree in degrees:
        field, _, unseen = _problems(study, degree)
        found.append(bootstrap_mean(endpoint_errors(field, IPNDM(4), unseen, even_grid(steps))))
    return found


def study_coefficients(
    study: CoefficientStudy, settings: Iterable[tuple[int, int]], directory: Path, orders: Iterable[int] = (1, 2, 3, 4)
) -> list[CoefficientRow]:
    """Adams-Bashforth with the coefficients of the books and with fitted ones.

    Args:
        study: sizes.
        settings: pairs (degree K, steps S); S at least `GIVEN_STATES`.
        directory: of the runs; one that was stopped goes on when started again.
        orders: of Adams-Bashforth, 1 to 4.

    Raises:
        ValueError: too few steps for the given states.
    """
    return [_row(study, degree, steps, order, directory) for degree, steps in settings for order in orders]


def _row(study: CoefficientStudy, degree: int, steps: int, order: int, directory: Path) -> CoefficientRow:
    field, seen, unseen = _problems(study, degree)
    grid, sizes = even_grid(steps), FitConfig(study.iterations, study.learning_rate)
    run = directory / f"degree{degree}-steps{steps}-order{order}-seed{study.seed}"
    fitted = fit_coefficients(field, order, seen, grid, sizes, run, {"study": repr(study)})
    standard, optimised = (endpoint_errors(field, solver, unseen, grid) for solver in (IPNDM(order), fitted))
    truth = [endpoint_errors(field, solver, seen[:, :1], grid) for solver in (IPNDM(order), fitted)]
    gain = (standard / optimised).log10()
    return CoefficientRow(
        degree, steps, order, *(bootstrap_mean(value) for value in (standard, optimised, gain, *truth))
    )


def _problems(study: CoefficientStudy, degree: int) -> tuple[CoupledDrift, Tensor, Tensor]:
    field, seen, unseen = draw_problems(study, degree)
    seen[:, 0] = 0  # the truth itself
    return field, seen, unseen
