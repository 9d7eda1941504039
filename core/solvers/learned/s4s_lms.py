"""S4S, linear multistep (Frankel et al. 2025, arXiv 2502.17423, eq. 5 and table 1)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from core.charts import Chart
from core.solvers.learned.base import Learned
from core.solvers.learned.increments import Band, StudentConfig, gain, nudge, planned, require_one_evaluation
from core.solvers.multistep import step_remembering
from core.state import State, VelocityField

HISTORY = 3


class S4SMultistep(Learned):
    """A multistep method whose weights b_(j,i) are learned for every step i, without any constraint.

        x_i = (alpha_i / alpha_(i-1)) x_(i-1) - sigma_i (e^h_i - 1) sum_(j=1..k) b_(j,i) noise_(i-j)

    or the same of data predictions. b is the base solver's weight plus a learned addition; k (2 N + 1 - k) / 2 numbers
    for k evaluations (3 unless told otherwise) and N steps. A base that weighs more evaluations keeps its weights for
    the older ones.

    Raises:
        ValueError: the base is no multistep method of one evaluation a step.
    """

    kind = "s4s-lms"

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        require_one_evaluation(self.kind, config)
        self.base = planned(config)
        self.chart: Chart = config.chart
        self.history = min(HISTORY, config.steps) if config.history is None else config.history
        self.weights = Band(config.steps, self.history)

    @property
    def memory(self) -> int:
        return max(self.base.memory, self.history)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        proposal = step_remembering(self.base, field, state, t_next, self.memory)
        slopes = map(self.chart.slope, proposal.buffer)
        x = nudge(proposal.x, gain(self.chart, state.t, t_next), self.weights[state.step], slopes)
        return replace(proposal, x=x)
