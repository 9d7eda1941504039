"""DPM-Solver++, multistep (Lu et al. 2022, arXiv 2211.01095, algorithm 2 and appendix B)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from core.solvers.exponential import Exponential, Known, Level, Rule, Scalar, gaps, phi_ratios
from core.solvers.multistep import remember
from core.state import State, VelocityField


@dataclass(frozen=True)
class DPMSolverPP(Exponential):
    """DPM-Solver++(kM): one evaluation per step, its options described in `Exponential`.

    With m_0, m_1, m_2 the last predictions, h the step in lambda and r_0, r_1 the two steps before it over h, the
    slope is m_0 plus, for order 2, D / 2 with D = (m_0 - m_1) / r_0, and for order 3 the terms of the first two
    derivatives of the parabola through them. The term of the second derivative is half of Taylor's, as in the published
    samplers, whose numbers are those of this rule; started exactly, it too converges with order 2.

    `order` is min(memory, 2), with the Euler step at the start and, by `lower_order_final`, at the end. The first steps
    use as many predictions as there are.
    """

    @property
    def order(self) -> int:
        return min(self.memory, 2)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        buffer, calls = remember(field, state, self.memory)
        known, there = self.know(buffer), self.level(t_next)
        scale, weights = self.remembered(self._rule, state.step, known, there)
        x = self.combine(scale, state.x, known, weights)
        return State(x=x, t=t_next, step=state.step + 1, buffer=buffer, nfe=state.nfe + calls)

    def _rule(self, step: int, known: list[Known], there: Level) -> Rule:
        scale, gain = self.linear_part(known[0].level, there)
        order = self.order_of_step(step, known, there)
        return scale, [gain * weight for weight in self._weights(known[:order], there)]

    def _weights(self, known: list[Known], there: Level) -> list[Scalar]:
        """Weights of the predictions in the slope, newest first; their sum is 1."""
        if len(known) == 1:
            return [1.0]
        h, nodes = gaps(known, there)
        r0 = -nodes[0]
        if len(known) == 2:
            return [1 + 1 / (2 * r0), -1 / (2 * r0)]
        r1 = nodes[0] - nodes[1]
        first, second = phi_ratios(self.exponent(h), 2)  # Taylor's, of the first two derivatives
        # with A = (m_0 - m_1) / r0 and B = (m_1 - m_2) / r1 the second derivative is 2 (A - B) / (r0 + r1)
        bend = (first * r0 + second) / (r0 + r1)
        newer, older = (first + bend) / r0, bend / r1
        return [1 + newer, -newer - older, older]
