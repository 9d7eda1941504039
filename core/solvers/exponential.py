"""What the exponential multistep methods share: DPM-Solver++ and UniPC (Lu et al. 2022, arXiv 2211.01095).

In lambda = log(alpha / sigma) the flow has a linear part that is solved exactly, and the predicted data or noise m:

    data    x' = (sigma' / sigma) x + (alpha' - alpha sigma' / sigma) m
    noise   x' = (alpha' / alpha) x + (sigma' - sigma alpha' / alpha) m

A method of higher order puts a weighted mean of stored predictions in the place of m. Both ends of a schedule are
reached: towards sigma = 0, where lambda is infinite, m is the newest prediction alone, which leaves the predicted data;
from alpha = 0 (rectified flow at t = 1) data predictions start, and the one made there serves only its own step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from core.charts import SMALLEST_ALPHA, DataChart, NoiseChart
from core.parametrizations import MOST_TIMES, Scalar, add_scaled, coefficients
from core.schedules import EDM, Schedule
from core.solvers.thresholding import dynamic_threshold
from core.state import Evaluation

MOST_ORDER = 3
SERIES = 18
"""Terms of the series of the phi functions: enough for the last bit at |z| <= 1."""


class Level(NamedTuple):
    """What a step needs to know of a time.

    Attributes:
        alpha, sigma: of the schedule.
        log_ratio: lambda = log(alpha / sigma).
        of_velocity, of_x: the prediction there is of_velocity * velocity + of_x * x.
    """

    alpha: Scalar
    sigma: Scalar
    log_ratio: Scalar
    of_velocity: Scalar
    of_x: Scalar


class Known(NamedTuple):
    """A stored evaluation and the level of its time."""

    evaluation: Evaluation
    level: Level


Rule = tuple[Scalar, list[Scalar]]
"""(scale, weights) of x' = scale * x + sum_j weights[j] * m_j."""


@dataclass(frozen=True)
class Exponential:
    """An exponential multistep method; `DPMSolverPP` and `UniPC` say the weights.

    Attributes:
        memory: 1 to 3, the nominal order.
        schedule: of the model.
        prediction: what is extrapolated. Noise predictions need data in the state, alpha > 0, at every step's start.
        thresholding: dynamic thresholding of the predicted data, for pixels in [-1, 1]. Without effect on predicted
            noise, as in the published samplers.
        lower_order_final: a step with fewer than `memory` steps still to take, itself included, is of that order only.
        steps: of the grid; `plan` fills it in.

    Raises:
        ValueError: an order outside 1 to 3, another prediction.
    """

    memory: int
    schedule: Schedule = field(default_factory=EDM)
    prediction: Literal["data", "noise"] = "data"
    thresholding: bool = False
    lower_order_final: bool = True
    steps: int | None = None
    _levels: Mapping[float, Level] = field(default_factory=dict, init=False, repr=False, compare=False)
    _rules: dict[tuple, Rule] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.memory not in range(1, MOST_ORDER + 1):
            raise ValueError(f"expected an order from 1 to {MOST_ORDER}, got {self.memory}; 2 and 3 are usual")
        if self.prediction not in ("data", "noise"):
            raise ValueError(f"expected prediction 'data' or 'noise', got {self.prediction!r}; 'data' is usual")

    @property
    def chart(self) -> DataChart | NoiseChart:
        """The chart whose Euler step the first order is."""
        return DataChart(self.schedule) if self.prediction == "data" else NoiseChart(self.schedule)

    def plan(self, grid: Tensor) -> Self:
        """The same method, knowing its number of steps and the levels of its times."""
        planned = replace(self, steps=len(grid) - 1)
        rows = zip(*(values.tolist() for values in self._levels_at(grid)), strict=True)
        levels = dict(zip(grid.tolist(), (Level(*row) for row in rows), strict=True))
        object.__setattr__(planned, "_levels", levels)
        object.__setattr__(planned, "_rules", self._rules)
        return planned

    def level(self, t: Tensor) -> Level:
        """The level at a time ()."""
        if t.requires_grad:
            return Level(*self._levels_at(t))
        level = self._levels.get(float(t))
        return Level(*(float(value) for value in self._levels_at(t))) if level is None else level

    def _levels_at(self, t: Tensor) -> tuple[Tensor, ...]:
        """The columns of the levels at times, of their shape."""
        signal = self.schedule(t)
        log_ratio = (signal.alpha / signal.sigma).log()
        return signal.alpha, signal.sigma, log_ratio, *coefficients(signal, "velocity", self.prediction)

    def remembered(
        self, rule: Callable[[int, list[Known], Level], Rule], step: int, known: list[Known], there: Level
    ) -> Rule:
        """rule(step, known, there), worked out once for the same levels: those of a grid come back in every run."""
        key = (self.steps, step, there, *(item.level for item in known))
        if any(isinstance(level.log_ratio, Tensor) for level in key[2:]):  # type: ignore[union-attr]
            return rule(step, known, there)
        found = self._rules.get(key)
        if found is None:
            if len(self._rules) >= MOST_TIMES:
                self._rules.clear()
            found = self._rules[key] = rule(step, known, there)
        return found

    def know(self, evaluations: tuple[Evaluation, ...]) -> list[Known]:
        """Stored evaluations, newest first, with their levels."""
        return [Known(evaluation, self.level(evaluation.t)) for evaluation in evaluations]

    def order_of_step(self, step: int, known: list[Known], there: Level) -> int:
        """Order of the step from the newest of `known` to the level `there`.

        Raises:
            ValueError: the number of steps matters and is not known.
        """
        order = min(self.memory, len(known))
        if self.lower_order_final and order == self.memory:
            order = min(order, max(self._planned_steps() - step, 1))
        if bool(there.sigma == 0):
            return 1
        while order > 1 and bool(known[order - 1].level.alpha < SMALLEST_ALPHA):
            order -= 1
        return order

    def _planned_steps(self) -> int:
        if self.steps is None:
            raise ValueError(
                "expected a solver that knows its number of steps, got none; use core.integrate, or plan(grid) first"
            )
        return self.steps

    def exponent(self, h: Scalar) -> Scalar:
        """z of the exponential e^z in the step of length h in lambda."""
        return -h if self.prediction == "data" else h

    def linear_part(self, here: Level, there: Level) -> tuple[Scalar, Scalar]:
        """(scale, gain) of x' = scale * x + gain * m.

        Raises:
            ValueError: noise predictions where alpha = 0.
        """
        if self.prediction == "data":
            scale = there.sigma / here.sigma
            return scale, there.alpha - here.alpha * scale
        if bool(here.alpha < SMALLEST_ALPHA):
            raise ValueError(
                "expected alpha > 0 at the start of a step with predicted noise, got 0; start the grid below or use "
                "prediction='data'"
            )
        scale = there.alpha / here.alpha
        return scale, there.sigma - here.sigma * scale

    def combine(self, scale: Scalar, x: Tensor, known: list[Known], weights: list[Scalar]) -> Tensor:
        """scale * x + sum_j weights[j] * m_j, m_j the predictions of `known`.

        Predictions are linear in velocity and state, so they are summed without being formed, but for thresholding.
        """
        pairs = list(zip(weights, known, strict=False))
        if self.prediction == "data" and self.thresholding:
            return weighted_sum(scale, x, [(weight, dynamic_threshold(_prediction(item))) for weight, item in pairs])
        terms = [(weight * item.level.of_velocity, item.evaluation.velocity) for weight, item in pairs]
        for weight, item in pairs:
            if item.evaluation.x is x:
                scale = scale + weight * item.level.of_x
            else:
                terms.append((weight * item.level.of_x, item.evaluation.x))
        return weighted_sum(scale, x, terms)


def _prediction(item: Known) -> Tensor:
    evaluation, level = item
    return weighted_sum(level.of_velocity, evaluation.velocity, [(level.of_x, evaluation.x)])


def weighted_sum(scale: Scalar, x: Tensor, terms: list[tuple[Scalar, Tensor]]) -> Tensor:
    """scale * x + sum of weight * tensor, one pass over memory a term and none for weights that are zero."""
    total = scale * x
    for weight, tensor in terms:
        if isinstance(weight, Tensor) or weight != 0:
            add_scaled(total, tensor, weight)
    return total


def gaps(known: list[Known], there: Level) -> tuple[Scalar, list[Scalar]]:
    """h = lambda' - lambda from the newest of `known` to `there`, and (lambda_j - lambda) / h of the older ones."""
    newest, *older = (item.level.log_ratio for item in known)
    h = there.log_ratio - newest
    return h, [(node - newest) / h for node in older]


def phi_ratios(z: Scalar, count: int) -> list[Scalar]:
    """phi_{q+1}(z) / phi_1(z) for q = 1 .. count, where phi_k(z) = sum_n z^n / (n + k)!.

    q! times it is the mean of the power q of the elapsed share of a step, weighted as its exponential weighs slopes.
    """
    if bool(abs(z) > 1):
        phis = [apply(torch.expm1, z) / z]
        for k in range(1, count + 1):
            phis.append((phis[-1] - 1 / math.factorial(k)) / z)
    else:  # the recurrence would cancel: downwards it does not
        last: Scalar = 0.0
        for n in range(SERIES, -1, -1):
            last = last * z + 1 / math.factorial(n + count + 1)
        phis = [last]
        for k in range(count, 0, -1):
            phis.insert(0, z * phis[0] + 1 / math.factorial(k))
    return [phi / phis[0] for phi in phis[1:]]


def apply(function: Callable[[Tensor], Tensor], value: Scalar) -> Scalar:
    """A function of torch: that of `math` need not agree to the last bit."""
    return function(value) if isinstance(value, Tensor) else float(function(torch.tensor(value, dtype=torch.float64)))
