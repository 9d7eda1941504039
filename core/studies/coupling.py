"""Does an update outside the span of the slopes matter? A controlled ODE with spatial coupling, the counterpart of the
study of coefficients for SpanLift, section 3.

The data are images of a Gaussian random field that vanishes at the border: independent sine modes k with variances c_k,
so that neighbours are correlated. In EDM's clock the flow of each mode is

    dx_k/dsigma = sigma x_k / (c_k + sigma^2),    x_k(sigma') = x_k(sigma) sqrt((c_k + sigma'^2) / (c_k + sigma^2)),

and the right step multiplies modes by different numbers. A scalar update multiplies whole slopes; what it lacks is the
local floor of equation 8, whatever its coefficients are, even fitted to each sample. An operator that sees neighbours
can tell the modes apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from core.analysis import local_floors
from core.fields import ScheduledField
from core.fitting import FitConfig
from core.grids import build_grid
from core.intervals import Interval, bootstrap_mean
from core.operators import Corrected, ResidualConfig, ScalarConfig, ScalarResidual, spanlift
from core.operators.scaling import chart_of
from core.schedules import EDM, Schedule
from core.solvers.ipndm import IPNDM
from core.state import Solver, integrate
from core.supervision import Example
from core.training import RunToEnd, train_solver

Operator = Literal["base", "scalar", "pointwise", "spatial-3", "spatial-5"]
OPERATORS: tuple[Operator, ...] = ("base", "scalar", "pointwise", "spatial-3", "spatial-5")
KERNELS: dict[Operator, int] = {"pointwise": 1, "spatial-3": 3, "spatial-5": 5}


@dataclass(frozen=True)
class CouplingStudy:
    """Sizes of the study.

    Attributes:
        size: edge of the images.
        correlation: wavelength in pixels above which modes have most of the variance.
        sigma_max, sigma_min: ends of the grid.
        iterations, batch, learning_rate: of the training.
        width: hidden channels of the operators.
        seeds: of weights and draws, one training each.
        held_out: initial states to measure on, drawn apart.
    """

    size: int = 16
    correlation: float = 8.0
    sigma_max: float = 5.0
    sigma_min: float = 0.05
    iterations: int = 300
    batch: int = 16
    learning_rate: float = 5e-3
    width: int = 16
    seeds: tuple[int, ...] = (0, 1)
    held_out: int = 128


class CouplingRow(NamedTuple):
    """One class of operators on held-out initial states, with intervals over these states (means over seeds).

    Attributes:
        operator, steps: which.
        endpoint: relative L2 error of the endpoint.
        mismatch: |update - exact update| / |exact update| from the solver's own states, mean over steps (equation 6).
        floor: the same of the best scalar update from these states, fitted to each sample (equation 8).
        excess: mismatch - floor, paired: never below 0 for scalar updates.
        last_mismatch, last_floor: of the last step alone, which endpoint training sees directly.
    """

    operator: Operator
    steps: int
    endpoint: Interval
    mismatch: Interval
    floor: Interval
    excess: Interval
    last_mismatch: Interval
    last_floor: Interval


class SineField(ScheduledField):
    """The exact field of a Gaussian random field with independent sine modes, states (B, 1, size, size), EDM's clock.

    Mode (j, k) has the variance of a Matern spectrum, (1 + |(j, k)|^2 / k_0^2)^-2 with k_0 = 2 size / correlation,
    scaled to a mean variance of 1 a pixel.
    """

    schedule: ClassVar[Schedule] = EDM()
    evaluations_per_call = 1

    def __init__(self, size: int, correlation: float) -> None:
        k = torch.arange(1, size + 1, dtype=torch.float64)
        self.modes = (2 / (size + 1)) ** 0.5 * torch.sin(torch.pi * k[:, None] * k / (size + 1))
        spectrum = (1 + (k[:, None] ** 2 + k**2) / (2 * size / correlation) ** 2) ** -2
        self.variance = spectrum / spectrum.mean()

    def _filtered(self, x: Tensor, gain: Tensor) -> Tensor:
        """x with its modes multiplied by gain; the transform is its own inverse."""
        modes = self.modes.to(x)
        return modes @ (gain.to(x) * (modes @ x @ modes)) @ modes

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self._filtered(x, t / (self.variance + t**2))

    def flow(self, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """The exact solution at t_next."""
        return self._filtered(x, ((self.variance + t_next**2) / (self.variance + t**2)).sqrt())

    def draw(self, count: int, t: float, generator: torch.Generator) -> Tensor:
        """States at time t as the flow has them: data plus noise."""
        white = torch.randn(count, 1, *self.modes.shape, generator=generator, dtype=torch.float64)
        return self._filtered(white, (self.variance + t**2).sqrt())


def study_coupling(
    study: CouplingStudy, steps: Iterable[int], directory: Path, operators: Iterable[Operator] = OPERATORS
) -> list[CouplingRow]:
    """Train each class of operators over iPNDM of two evaluations and measure endpoint, mismatch and floor.

    Args:
        study: sizes.
        steps: numbers of steps, one training each.
        directory: of the runs; one that was stopped goes on when started again.
        operators: which classes; "base" is not trained.
    """
    field = SineField(study.size, study.correlation)
    return [_row(study, field, operator, count, directory) for count in steps for operator in operators]


def build_operator(operator: Operator, study: CouplingStudy, steps: int, seed: int) -> Solver:
    """The untrained solver."""
    base = IPNDM(2)
    if operator == "base":
        return base
    if operator == "scalar":
        return Corrected(base, ScalarResidual(ScalarConfig(steps, history=2), chart_of(base)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = ResidualConfig(1, width=study.width, kernel=KERNELS[operator], blocks=1, history=2, steps=steps)
        return spanlift(base, config, EDM())


def _row(study: CouplingStudy, field: SineField, operator: Operator, steps: int, directory: Path) -> CouplingRow:
    grid = build_grid("karras", steps, study.sigma_max, study.sigma_min)
    x_T = field.draw(study.held_out, study.sigma_max, torch.Generator().manual_seed(2**31))
    exact = field.flow(x_T, grid[0], grid[-1])
    measured = []
    for seed in study.seeds if operator != "base" else (0,):
        solver = build_operator(operator, study, steps, seed)
        if isinstance(solver, nn.Module):
            train_on_sines(solver, study, field, grid, seed, directory / f"{operator}-steps{steps}-seed{seed}")
        with torch.no_grad():
            end = integrate(field, solver, x_T, grid).x
        floors = local_floors(field, solver, x_T, grid, field.flow)
        mismatch = torch.stack([row.relative().mismatch for row in floors])
        floor = torch.stack([row.relative().floor for row in floors])
        error = relative_error(end, exact)
        measured.append(
            torch.stack([error, mismatch.mean(0), floor.mean(0), (mismatch - floor).mean(0), mismatch[-1], floor[-1]])
        )
    return CouplingRow(operator, steps, *(bootstrap_mean(value) for value in torch.stack(measured).mean(0)))


def relative_error(end: Tensor, exact: Tensor) -> Tensor:
    """|end - exact| / |exact| of (B, *space), (B,)."""
    return (end - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)


def train_on_sines(
    solver: nn.Module, study: CouplingStudy, field: SineField, grid: Tensor, seed: int, directory: Path
) -> None:
    """Fit a solver in place to exact endpoints of fresh draws; the seed says which.

    It is trained in the precision of what is fitted, and comes back in float64, which floors are measured in.
    """
    dtype = next(parameter.dtype for parameter in solver.parameters() if parameter.requires_grad)

    def example(iteration: int) -> Example:
        generator = torch.Generator().manual_seed(seed * study.iterations + iteration)
        x_T = field.draw(study.batch, study.sigma_max, generator)
        return Example(x_T.to(dtype), None, field.flow(x_T, grid[0], grid[-1]).to(dtype))

    train_solver(
        solver,
        grid,
        example,
        lambda condition: field,
        lambda end, example: (end - example.endpoint).square().mean(),
        FitConfig(study.iterations, study.learning_rate, checkpoint_every=study.iterations),
        directory,
        run=RunToEnd(rematerialise=False),
        identity={"study": repr(study), "seed": seed},
    )
    solver.double()
