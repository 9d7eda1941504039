"""The scalar class of residuals: a correction within the span of the buffered slopes (SpanLift, equation 9)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.charts import Chart
from core.operators.scaling import move
from core.state import State


@dataclass(frozen=True, slots=True)
class ScalarConfig:
    """Sizes of a `ScalarResidual`: steps of its grid, and buffered slopes it weighs."""

    steps: int
    history: int = 3

    def __post_init__(self) -> None:
        if self.steps < 1 or self.history < 1:
            raise ValueError(
                f"expected steps and history >= 1, got {self.steps} and {self.history}; ask for at least one"
            )


class ScalarResidual(nn.Module):
    """(a_i - 1)(y_prop - y) + h_i sum_j g_ij slope_j in the chart, taken back to a change of x; no network.

    What a learned-coefficient solver can do on top of the same base: the control for whatever leaves the span.
    a starts at 1 and g at 0, so the first rollout is the base solver's bit for bit.
    """

    def __init__(self, config: ScalarConfig, chart: Chart) -> None:
        super().__init__()
        self.config = config
        self.chart = chart
        self.scale = nn.Parameter(torch.ones(config.steps))
        self.weights = nn.Parameter(torch.zeros(config.steps, config.history))

    @property
    def memory(self) -> int:
        return self.config.history

    def forward(self, state: State, proposal: State) -> Tensor:
        """What to add to `proposal.x`; see `SpanLiftResidual.forward`.

        Raises:
            ValueError: a step beyond `steps`.
        """
        if state.step >= self.config.steps:
            raise ValueError(
                f"expected at most {self.config.steps} steps, got step {state.step + 1}; "
                "sample on the grid of the training"
            )
        step = move(self.chart, state.t, proposal.t)
        dtype = proposal.x.dtype
        slope = torch.zeros_like(proposal.x)
        for weight, evaluation in zip(self.weights[state.step], proposal.buffer, strict=False):
            slope = slope + weight.to(dtype) * self.chart.slope(evaluation)
        base = proposal.x - step.keep * state.x
        return (self.scale[state.step] - 1).to(dtype) * base + step.gain * slope
