"""Where a solver asks the network, found once for a grid, and the field that has the answer of one step alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import core
from apps.imagegen.scheduling.clock import Clock
from core.parametrizations import Conversion

OWN_LOOP = "sample with python -m apps.imagegen.sample, or core.integrate"
TOLERANCE = 1e-9

# of no use as data, but in no linear relation to each other: what a solver does with them shows
PROBE_STATE = ((1.0, -2.0, 0.5),)
PROBE_VELOCITY = ((0.25, 0.125, -0.75),)


class Query(NamedTuple):
    """What the network is asked in a step: at time `t` (), of `scale` times the state."""

    t: Tensor
    scale: float


class Probe:
    """A field that writes down what it is asked, once a step."""

    evaluations_per_call = 1

    def __init__(self, clock: Clock, name: str) -> None:
        self.schedule = clock.schedule
        self.name = name
        self.asked: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self.asked:
            raise ValueError(
                f"expected a solver of one network call a step, got {self.name}, which makes more; {OWN_LOOP}"
            )
        self.asked.append((x, t))
        return torch.tensor(PROBE_VELOCITY, dtype=x.dtype)


def bare(solver: core.Solver) -> core.Solver:
    """The solver without its residual operators, which ask nothing and need states of their own shape."""
    while isinstance(solver, core.Corrected):
        solver = solver.solver
    return solver


@torch.no_grad()
def find_queries(solver: core.Solver, grid: Tensor, clock: Clock, name: str) -> tuple[Query, ...]:
    """The query of each step on `grid` (N + 1,): the solver is run on a state of three numbers.

    Learned solvers may ask at other times than those of the states (DyWeight's scaled times, LD3's decoupled ones), and
    in the chart of a VP model then at another scale. Neither depends on data.

    Raises:
        ValueError: the solver asks more or less than once a step, or elsewhere than at a multiple of the state.
    """
    probe = Probe(clock, name)
    states = core.trajectory(probe, bare(solver), torch.tensor(PROBE_STATE, dtype=torch.float64), grid)
    before, found = next(states), []
    for state in states:
        if not probe.asked:
            raise ValueError(f"expected a solver of one network call a step, got {name}, which makes fewer; {OWN_LOOP}")
        x, t = probe.asked.pop()
        scale = 1.0 if x is before.x else float((x * before.x).sum() / before.x.square().sum())
        if not torch.allclose(x, scale * before.x, rtol=0, atol=TOLERANCE * float(before.x.abs().max())):
            raise ValueError(f"expected a solver that asks at the state, got {name}, which asks elsewhere; {OWN_LOOP}")
        found.append(Query(t, 1.0 if abs(scale - 1) < TOLERANCE else scale))
        before = state
    return tuple(found)


class ModelOutput:
    """The velocity field of one step: it has the answer to one question, what the pipeline's model gave.

    Args:
        output: (B, *space) of the model.
        query: the question that it answers.
        to_velocity: from what the model predicts.
        clock: of the model.
    """

    evaluations_per_call = 1

    def __init__(self, output: Tensor, query: Query, to_velocity: Conversion, clock: Clock) -> None:
        self.schedule = clock.schedule
        self.output = output
        self.query = query
        self.to_velocity = to_velocity
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Raises ValueError for a second question, or another than that of the query."""
        self.calls += 1
        if self.calls > 1:
            raise ValueError(f"expected one network call in a step of a pipeline, got a second one; {OWN_LOOP}")
        if abs(float(t) - float(self.query.t)) > TOLERANCE:
            raise ValueError(
                f"expected a question at the time {float(self.query.t):g}, which the pipeline answered, got "
                f"{float(t):g}; {OWN_LOOP}"
            )
        return self.to_velocity(self.output.to(x.dtype), x, t)
