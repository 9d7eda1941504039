"""What all linear multistep methods do: one evaluation, then a straight move along a weighted sum of stored slopes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.charts import Chart
from core.solvers.quadrature import MOST_NODES
from core.state import Evaluation, State, VelocityField, observe, push


def remember(field: VelocityField, state: State, memory: int) -> tuple[tuple[Evaluation, ...], int]:
    """The buffer headed by the evaluation at the state, and the network calls that it took."""
    evaluation, calls = observe(field, state)
    return push(evaluation, state.buffer, memory), calls


def combine(
    chart: Chart,
    state: State,
    t_next: Tensor,
    buffer: tuple[Evaluation, ...],
    weights: Sequence[float] | Tensor,
    calls: int,
) -> State:
    """The state at t_next along sum_j weights[j] * slope(buffer[j]) in the chart."""
    slopes = [weight * chart.slope(evaluation) for weight, evaluation in zip(weights, buffer, strict=False)]
    x = chart.move(state.x, state.t, t_next, sum(slopes[1:], start=slopes[0]))
    return State(x=x, t=t_next, step=state.step + 1, buffer=buffer, nfe=state.nfe + calls)


def check_memory(memory: int) -> None:
    """Raise ValueError unless `memory` evaluations can be extrapolated from."""
    if memory not in range(1, MOST_NODES + 1):
        raise ValueError(f"expected an order from 1 to {MOST_NODES}, got {memory}; more evaluations extrapolate wildly")
