"""Dynamic linear multistep: coefficients, next time and time scaling from a small network at run time (DLMS,
openreview vkOFOUDLTn)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from core.charts import Chart
from core.solvers.learned.base import Learned
from core.solvers.learned.increments import Moved, StudentConfig, gain, nudge, planned, require_one_evaluation
from core.solvers.multistep import step_remembering
from core.state import Evaluation, State, VelocityField

HISTORY = 3
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class DynamicConfig(StudentConfig):
    """That of a student, and the width of the two hidden layers of its network.

    Attributes:
        width: at least 1.
    """

    width: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise ValueError(f"expected width >= 1, got {self.width}; 16 is enough")


class DynamicMultistep(Learned):
    """A linear multistep method whose weights, next time and network time a small network gives while sampling.

        t'_(i+1) = t_(i+1) exp(g_(i+1) tanh(p_i) / 2)       g the smaller logarithmic gap to the neighbours in the grid
        q_i = t'_i exp(s_i), at most t_0                    what the network is told; t_0 for the first step
        x_(i+1) = base step to t'_(i+1) + gain sum_(j < k) w_ij slope_j

    There is no public code: the network is ours. p and s come from the place of the step alone (its share of the steps
    done and its log time), for they are shared by a batch, whose samples must not depend on one another. w is of each
    sample: it comes from the same two numbers and, of each older slope, its logarithmic length against the newest one
    and the cosine between them. Both are perceptrons of two hidden layers in float64; their last layers start at zero,
    so that untrained it is the base to the last bit. t' cannot change places, and the last time is that of the grid.

    Raises:
        ValueError: the base is no multistep method of one evaluation a step.
    """

    kind = "dlms"
    reach: Tensor

    def __init__(self, config: DynamicConfig) -> None:
        super().__init__(config)
        require_one_evaluation(self.kind, config)
        self.base = planned(config)
        self.chart: Chart = config.chart
        self.history = min(HISTORY, config.steps) if config.history is None else config.history
        self.register_buffer("reach", _reach(config.grid))
        generator = torch.Generator().manual_seed(0)
        self.clock = _perceptron(2, config.width, 2, generator)
        self.weights = _perceptron(2 * self.history, config.width, self.history, generator)

    @property
    def memory(self) -> int:
        return max(self.base.memory, self.history)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        where = self._place_of(state)
        to_time, to_scale = self.clock(where).to(state.t.device).unbind()
        there = t_next * (self.reach[state.step + 1] * to_time.tanh() / 2).exp()
        t_query = (state.t * to_scale.exp()).clamp(max=float(self.config.grid[0])) if state.step else state.t

        def place(number: int, x: Tensor, t: Tensor, seen: Sequence[Evaluation]) -> tuple[Tensor, Tensor]:
            return x, t_query

        after = step_remembering(self.base, Moved(field, self.chart, place), state, there, self.memory)
        slopes = [self.chart.slope(evaluation) for evaluation in after.buffer[: self.history]]
        weights = self.weights(torch.cat([where.expand(len(slopes[0]), -1), self._features(slopes)], 1))
        columns = weights.to(slopes[0]).view(*weights.shape, *(1,) * (slopes[0].ndim - 1)).unbind(1)
        return replace(after, x=nudge(after.x, gain(self.chart, state.t, there), columns, slopes))

    def _place_of(self, state: State) -> Tensor:
        """(2,): the share of steps done, and log t between 1 at the first time and 0 at the last but one."""
        grid = self.config.grid
        share = torch.as_tensor(state.step / (len(grid) - 1), dtype=torch.float64)
        span = (grid[0] / grid[-2]).log().clamp_min(1)
        return torch.stack([share, (state.t.to(grid.device) / grid[-2]).log() / span]).to(self.reach)

    def _features(self, slopes: Sequence[Tensor]) -> Tensor:
        """(B, 2 (k - 1)): logarithmic length and cosine of older slopes against the newest; 0 where there is none."""
        newest, *older = (slope.flatten(1).double() for slope in slopes)
        length = _length(newest)
        found = [
            value for s in older for value in ((_length(s) / length).log(), (s * newest).sum(1) / (_length(s) * length))
        ]
        missing = 2 * (self.history - 1) - len(found)
        return torch.stack([*found, *(torch.zeros_like(length),) * missing], 1) if self.history > 1 else length[:, :0]


def _length(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(1) + TINY).sqrt()


def _reach(grid: Tensor) -> Tensor:
    """(N + 1,): the smaller of the logarithmic gaps of a time to its neighbours; 0 at both ends."""
    gaps = -grid.clamp_min(torch.finfo(grid.dtype).tiny).log().diff()
    return torch.cat([grid.new_zeros(1), torch.minimum(gaps[:-1], gaps[1:]), grid.new_zeros(1)])


def _perceptron(inputs: int, width: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    """Two hidden layers, drawn from `generator`; the last layer gives zero."""
    sizes = (inputs, width, width, outputs)
    linear = [nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise(sizes)]
    for layer in linear:
        nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(linear[-1].weight)
    return nn.Sequential(linear[0], nn.SiLU(), linear[1], nn.SiLU(), linear[2])
