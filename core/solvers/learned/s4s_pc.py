"""S4S, predictor-corrector (Frankel et al. 2025, arXiv 2502.17423, table 1)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from core.solvers.learned.increments import Band, StudentConfig, gain, keep, nudge
from core.solvers.learned.s4s_lms import S4SMultistep
from core.solvers.multistep import step_remembering
from core.state import State, VelocityField


class S4SPredictorCorrector(S4SMultistep):
    """A multistep predictor b_(j,i), and a corrector a^c_(j,i) that repeats the step with the evaluation at its end.

        predicted_i = keep x_(i-1) + gain sum_(j=1..k) b_(j,i) m_(i-j)
        x_i         = keep x_(i-1) + gain sum_(j=0..k-1) a^c_(j,i) m_(i-j)      m_i = noise (or data) at predicted_i

    There is one evaluation a step: m_i is not made again at the corrected state. As in our UniPC a step corrects the
    step before and predicts the next, so the states of a trajectory are predictions and the last one is not corrected.
    The base is such a pair (UniPC) or any multistep method, which is a pair whose corrector changes nothing. b and a^c
    are the base's plus learned additions, k (2 N + 1 - k) numbers as the paper counts them: with those of the corrector
    of the last step, which are never read.

    Raises:
        ValueError: the base is no multistep method of one evaluation a step.
    """

    kind = "s4s-pc"

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        self.corrector = Band(config.steps, self.history)

    @property
    def memory(self) -> int:
        return max(self.base.memory, self.history + 1)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        after = step_remembering(self.base, field, state, t_next, self.memory)
        slopes = [self.chart.slope(evaluation) for evaluation in after.buffer]
        x = after.x
        if state.step > 0:
            last, before = state.step - 1, after.buffer[1].t
            unit = gain(self.chart, before, state.t) * keep(self.chart, state.t, t_next)
            x = nudge(x, -unit, self.weights[last], slopes[1:])
            x = nudge(x, unit, self.corrector[last], slopes)
        x = nudge(x, gain(self.chart, state.t, t_next), self.weights[state.step], slopes)
        return replace(after, x=x)
