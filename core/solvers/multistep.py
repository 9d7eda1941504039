"""What all linear multistep methods do: one evaluation, then a straight move along a weighted sum of stored slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from core.charts import Chart
from core.parametrizations import add_scaled
from core.solvers.quadrature import MOST_NODES
from core.state import Evaluation, Solver, State, VelocityField, observe, push


def remember(field: VelocityField, state: State, memory: int) -> tuple[tuple[Evaluation, ...], int]:
    """The buffer headed by the evaluation at the state, and the network calls that it took."""
    evaluation, calls = observe(field, state)
    return push(evaluation, state.buffer, memory), calls


def combine(
    chart: Chart,
    state: State,
    t_next: Tensor,
    buffer: tuple[Evaluation, ...],
    weights: Sequence[float | Tensor] | Tensor,
    calls: int,
) -> State:
    """The state at t_next along sum_j weights[j] * slope(buffer[j]) in the chart."""
    x = moved_along(chart, state, t_next, buffer, weights)
    return State(x=x, t=t_next, step=state.step + 1, buffer=buffer, nfe=state.nfe + calls)


def moved_along(
    chart: Chart,
    state: State,
    t_next: Tensor,
    buffer: tuple[Evaluation, ...],
    weights: Sequence[float | Tensor] | Tensor,
) -> Tensor:
    """x (B, *space) of `combine`."""
    slopes = [chart.slope(evaluation) for evaluation, _ in zip(buffer, weights, strict=False)]
    return chart.move(state.x, state.t, t_next, weighted_sum(weights, slopes))


def weighted_sum(weights: Sequence[float | Tensor] | Tensor, slopes: Sequence[Tensor]) -> Tensor:
    """sum_j weights[j] * slopes[j], newest first; a lone weight of 1 costs no pass over the slope."""
    if len(slopes) == 1 and isinstance(weights[0], float) and weights[0] == 1:
        return slopes[0]
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=False):
        total = add_scaled(total, slope, weight)
    return total


def step_remembering(solver: Solver, field: VelocityField, state: State, t_next: Tensor, memory: int) -> State:
    """The step of `solver`, its buffer `memory` long: `solver` sees the evaluations that it would see alone."""
    seen = state.buffer[: solver.memory]
    after = solver.step(field, replace(state, buffer=seen), t_next)
    fresh = tuple(evaluation for evaluation in after.buffer if not any(evaluation is old for old in seen))
    return replace(after, buffer=(*fresh, *state.buffer)[:memory])


def check_memory(memory: int) -> None:
    """Raise ValueError unless `memory` evaluations can be extrapolated from."""
    if memory not in range(1, MOST_NODES + 1):
        raise ValueError(f"expected an order from 1 to {MOST_NODES}, got {memory}; more evaluations extrapolate wildly")
