"""What changes during sampling, and the one loop that changes it.

Time runs down from noise to data in the model's own clock. A solver sees a velocity field, a state and the next time,
nothing else; whatever it remembers is in the state's buffer. Times are 0-dimensional float64 tensors, on the CPU
unless the grid was put elsewhere: beside a float32 state on an accelerator they act as exact scalars and force no
synchronisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from core.parametrizations import convert


class VelocityField(Protocol):
    """dx/dt of a frozen model, in its own clock; conditioning and guidance are bound inside.

    A field may have an attribute `evaluations_per_call`, the network calls per sample in one call (1 where it is
    absent), and a method `analytic_velocity(x, t)`, a guess of the velocity at the noise end that needs no network.
    """

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B, *space) and t () -> velocity (B, *space)."""
        ...


@runtime_checkable
class AnalyticStart(Protocol):
    """A field that knows its velocity at the noise end without calling the network."""

    def analytic_velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B, *space) and t () -> velocity (B, *space)."""
        ...


class Evaluation(NamedTuple):
    """One evaluation of a velocity field: t (), x (B, *space) and velocity (B, *space)."""

    t: Tensor
    x: Tensor
    velocity: Tensor


@dataclass(frozen=True, slots=True)
class State:
    """Everything that changes during sampling.

    Attributes:
        x: (B, *space), float32 or float64 even where the network runs in lower precision.
        t: (), the time of `x`.
        step: number of steps done.
        buffer: stored evaluations, newest first, at most `solver.memory` of them.
        nfe: network calls per sample so far.
    """

    x: Tensor
    t: Tensor
    step: int
    buffer: tuple[Evaluation, ...]
    nfe: int


@runtime_checkable
class Planned(Protocol):
    """A solver that needs the whole grid: its number of steps, tables over it, the grid of its training."""

    def plan(self, grid: Tensor) -> Solver:
        """The solver for this grid (N + 1,), float64; raises ValueError where it does not fit the grid."""
        ...


class Solver(Protocol):
    """A rule that takes a state one step down in time. Handcrafted ones are frozen dataclasses, learned ones modules.

    `order` is the order of convergence measured in the tests, start-up included (None where learned or stochastic);
    `memory` is how many evaluations it keeps.
    """

    @property
    def order(self) -> int | None: ...

    @property
    def memory(self) -> int: ...

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        """The state at `t_next`, its buffer headed by the evaluation at `state`."""
        ...


def nfe_of(field: VelocityField) -> int:
    """Network calls per sample in one call of the field: 1 unless it says otherwise, as guidance does."""
    return getattr(field, "evaluations_per_call", 1)


def evaluate(field: VelocityField, x: Tensor, t: Tensor) -> Evaluation:
    """Call the field and keep its answer in the precision of the state.

    Raises:
        ValueError: the field returned another shape than that of x.
    """
    velocity = field(x, t)
    if velocity.shape != x.shape:
        raise ValueError(
            f"expected a velocity of shape {tuple(x.shape)}, got {tuple(velocity.shape)}; return one per value"
        )
    return Evaluation(t, x, velocity.to(x.dtype))


def observe(field: VelocityField, state: State) -> tuple[Evaluation, int]:
    """The evaluation at the state and the network calls it took: none where the buffer already starts with it."""
    if state.buffer and state.buffer[0].x is state.x and state.buffer[0].t is state.t:
        return state.buffer[0], 0
    return evaluate(field, state.x, state.t), nfe_of(field)


def push(evaluation: Evaluation, buffer: tuple[Evaluation, ...], memory: int) -> tuple[Evaluation, ...]:
    """The buffer headed by `evaluation`, at most `memory` long; one that starts with it already is only cut."""
    if buffer and buffer[0] is evaluation:
        return buffer[:memory]
    return (evaluation, *buffer)[:memory]


def trajectory(field: VelocityField, solver: Solver, x_T: Tensor, grid: Tensor, afs: bool = False) -> Iterator[State]:
    """All states of a sampling run, the initial one first.

    Args:
        field: dx/dt.
        solver: takes the steps; one that is `Planned` is shown the grid first.
        x_T: (B, *space), the state at grid[0], already of its scale (unit noise times sigma). Half precision is
            promoted.
        grid: (N+1,) strictly descending times in the field's clock.
        afs: analytic first step: the first evaluation is the field's `analytic_velocity` and costs no network call
            (Dockhorn et al. 2022, arXiv 2210.05475).

    Raises:
        ValueError: x_T or grid is of another kind, or `afs` is asked of a field that offers none.
    """
    times = _checked_grid(grid)
    x = _checked_state(x_T)
    solver = plan(solver, grid)
    state = State(x=x, t=times[0], step=0, buffer=(), nfe=0)
    if afs:
        state = State(x=x, t=times[0], step=0, buffer=(_analytic(field, x, times[0]),), nfe=0)
    return _steps(field, solver, state, times)


def integrate(
    field: VelocityField, solver: Solver, x_T: Tensor, grid: Tensor, afs: bool = False, denoise: bool = False
) -> State:
    """The last state of `trajectory`: `.x` is the endpoint, `.nfe` the network calls per sample.

    Args:
        field, solver, x_T, grid, afs: see `trajectory`.
        denoise: end with the data that the field, which then needs a `schedule`, predicts from the last state, in place
            of that state; one more evaluation ("denoise to zero").

    Raises:
        ValueError: see `trajectory`; `denoise` of a field without a schedule, or where the noise is gone.
        FloatingPointError: the endpoint is not finite; it says at which step that began.
    """
    sums, state = [], None
    for state in trajectory(field, solver, x_T, grid, afs):
        sums.append(state.x.detach().sum())  # read at the end alone: no step waits for an accelerator
    assert state is not None
    if denoise:
        state = _denoised(field, state)
        sums.append(state.x.detach().sum())
    if not torch.isfinite(sums[-1]):
        _tell_where(torch.stack(sums), state.x, grid)
    return state


def plan(solver: Solver, grid: Tensor) -> Solver:
    """The solver as it is for this grid; most do not depend on it."""
    return solver.plan(grid.detach().double()) if isinstance(solver, Planned) else solver


def _tell_where(sums: Tensor, x: Tensor, grid: Tensor) -> None:
    """Raise FloatingPointError for the first state that is not finite; a sum alone may overflow."""
    if bool(torch.isfinite(x).all()):
        return
    step = int((~torch.isfinite(sums)).nonzero()[0])
    if step == len(grid):
        where = f"in the denoised state, from t = {float(grid[-1]):g}"
    elif step:
        where = f"after step {step} of {len(grid) - 1}, from t = {float(grid[step - 1]):g}"
    else:
        where = "in x_T"
    raise FloatingPointError(
        f"expected finite states, got NaN or infinity {where}; check the network there, its precision and the grid"
    )


def _steps(field: VelocityField, solver: Solver, state: State, times: tuple[Tensor, ...]) -> Iterator[State]:
    yield state
    for t_next in times[1:]:
        state = solver.step(field, state, t_next)
        yield state


def _analytic(field: VelocityField, x: Tensor, t: Tensor) -> Evaluation:
    if not isinstance(field, AnalyticStart):
        raise ValueError(
            f"expected a field with analytic_velocity for afs=True, got {type(field).__name__}; "
            "use a field of core.fields or afs=False"
        )
    return evaluate(field.analytic_velocity, x, t)


def _denoised(field: VelocityField, state: State) -> State:
    """The state moved to t = 0 as the predicted data."""
    schedule = getattr(field, "schedule", None)
    if schedule is None:
        raise ValueError(
            f"expected a field with a schedule for denoise=True, got {type(field).__name__}; use one of core.fields "
            "or denoise=False"
        )
    signal = schedule(state.t)
    if not signal.sigma > 0:
        raise ValueError(
            f"expected noise in the last state for denoise=True, got none at t = {float(state.t):g}; end the grid "
            "above or use denoise=False"
        )
    evaluation, calls = observe(field, state)
    data = convert(evaluation.velocity, state.x, signal, "velocity", "data")
    return replace(state, x=data, t=torch.zeros_like(state.t), nfe=state.nfe + calls)


def _checked_state(x: Tensor) -> Tensor:
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(f"expected x_T as floats (batch, *space), got {x.dtype} {tuple(x.shape)}; one row per sample")
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _checked_grid(grid: Tensor) -> tuple[Tensor, ...]:
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"expected a grid of at least two times, got shape {tuple(grid.shape)}; use core.build_grid")
    values = grid.tolist()
    if not all(map(math.isfinite, values)) or not all(a > b for a, b in pairwise(values)):
        raise ValueError(
            f"expected finite, strictly descending times, got {values}; order the grid from noise down to data"
        )
    return grid.double().unbind()
