"""UniPC, a predictor and a corrector of one family (Zhao et al. 2023, arXiv 2302.04867, algorithms 1 to 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor

from core.solvers.exponential import Exponential, Known, Level, Rule, Scalar, apply, gaps, phi_ratios
from core.state import State, VelocityField, evaluate, nfe_of, observe, push


@dataclass(frozen=True)
class UniPC(Exponential):
    """UniPC-k: one evaluation per step, which corrects the step before and predicts the next one.

    The other options are described in `Exponential`. A step leaves the predicted state; the evaluation there, at the
    start of the next step, first corrects it and is not made again at the corrected one. The last step is therefore
    not corrected, and the states of a trajectory are predictions.

    `order` is that of the start (Euler, corrected) and of the last step: with `lower_order_final` that is an Euler step
    and the order is 2. Without, it is min(memory + 1, 3), but 2 for memory 1.

    Attributes:
        variant: B(h) of the paper, h ("bh1") or e^h - 1 ("bh2"), up to signs. It matters where the weights are set to
            1/2: in the predictor of order 2 and the corrector of order 1. From alpha = 0, where h is infinite, "bh1"
            has no corrector.
        reference_compatible: on grids of fewer steps than `memory` the published sampler also corrects the last step,
            for one more evaluation, at the end of the grid: reproduce that. Longer runs are the same with and without.

    Raises:
        ValueError: see `Exponential`; another variant.
    """

    variant: Literal["bh1", "bh2"] = "bh2"
    reference_compatible: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in ("bh1", "bh2"):
            raise ValueError(f"expected variant 'bh1' or 'bh2', got {self.variant!r}; 'bh2' is usual")

    @property
    def order(self) -> int:
        return 2 if self.lower_order_final or self.memory == 1 else 3

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        evaluation, calls = observe(field, state)
        known, there = self.know(push(evaluation, state.buffer, self.memory + 1)), self.level(t_next)
        scale, weights = self.remembered(self._rule, state.step, known, there)
        x = self.combine(scale, state.x, known, weights)
        buffer = tuple(item.evaluation for item in known[: self.memory])
        done = State(x=x, t=t_next, step=state.step + 1, buffer=buffer, nfe=state.nfe + calls)
        if self.reference_compatible and self._ends_a_short_run(done) and bool(there.sigma > 0):
            return self._correct(field, done, known)
        return done

    def _rule(self, step: int, known: list[Known], there: Level) -> Rule:
        scale, gain = self.linear_part(known[0].level, there)
        order = self.order_of_step(step, known, there)
        correction = [scale * weight for weight in self._correction(known, step)]
        prediction = [gain * weight for weight in self._prediction(known[:order], there)]
        return scale, [a + b for a, b in zip_longest(correction, prediction, fillvalue=0.0)]

    def _prediction(self, known: list[Known], there: Level) -> list[Scalar]:
        """Weights of the predictions in the slope of a step, newest first; their sum is 1."""
        if len(known) == 1:
            return [1.0]
        h, nodes = gaps(known, there)
        older = [share / node for share, node in zip(self._predictor_shares(h, nodes), nodes, strict=True)]
        return [1 - sum(older), *older]

    def _correction(self, known: list[Known], step: int) -> list[Scalar]:
        """Weights of the predictions in what the newest of them adds to the step that led there; their sum is 0."""
        before, here = known[1:], known[0].level
        if not before:
            return []
        order = self.order_of_step(step - 1, before, here)
        _, gain = self.linear_part(before[0].level, here)
        h, nodes = gaps(before[:order], here)
        predictor, (*corrector, newest) = self._predictor_shares(h, nodes), self._corrector_shares(h, nodes)
        older = [(c - p) / node for c, p, node in zip(corrector, predictor, nodes, strict=True)]
        return [gain * weight for weight in (newest, -newest - sum(older), *older)]

    def _predictor_shares(self, h: Scalar, nodes: list[Scalar]) -> list[Scalar]:
        """rho B(h) / (e^h - 1) of the predictor, for older predictions at `nodes` in units of the step."""
        return [self._half(h)] if len(nodes) == 1 else self._solved(h, nodes)

    def _corrector_shares(self, h: Scalar, nodes: list[Scalar]) -> list[Scalar]:
        """The same of the corrector; the share of the prediction at the step's end, at 1, comes last."""
        return [self._half(h)] if len(nodes) == 0 else self._solved(h, [*nodes, 1.0])

    def _solved(self, h: Scalar, nodes: list[Scalar]) -> list[Scalar]:
        """The shares whose sums with the powers q < n of n nodes are (q + 1)! phi_(q+2) / phi_1, as in the integral."""
        means = [math.factorial(q + 1) * ratio for q, ratio in enumerate(phi_ratios(self.exponent(h), len(nodes)))]
        shares = []
        for j, node in enumerate(nodes):
            basis: list[Scalar] = [1.0]  # of Lagrange, lowest power first
            for other in (*nodes[:j], *nodes[j + 1 :]):
                basis = [(a - other * b) / (node - other) for a, b in zip([0.0, *basis], [*basis, 0.0], strict=True)]
            shares.append(sum(c * mean for c, mean in zip(basis, means, strict=True)))
        return shares

    def _half(self, h: Scalar) -> Scalar:
        """Half of B(h) / (e^h - 1), in place of the solution of a single equation."""
        if self.variant == "bh2":
            return 0.5
        if bool(h == math.inf):
            return 0.0
        z = self.exponent(h)
        return z / apply(torch.expm1, z) / 2

    def _ends_a_short_run(self, state: State) -> bool:
        return self.steps is not None and state.step == self.steps < self.memory

    def _correct(self, field: VelocityField, state: State, known: list[Known]) -> State:
        """The state after an evaluation there has corrected the step that led to it."""
        known = [*self.know((evaluate(field, state.x, state.t),)), *known]
        x = self.combine(1.0, state.x, known, self._correction(known, state.step))
        return replace(state, x=x, nfe=state.nfe + nfe_of(field))
