"""A better start for multistep methods: the first steps by a one-step method, which leaves them a full history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from core.charts import Chart, TimeChart
from core.state import Solver, State, VelocityField, plan, push


@runtime_checkable
class Multistep(Solver, Protocol):
    """A method whose order depends on how its history begins."""

    @property
    def started_order(self) -> int:
        """Order of convergence when the first `memory` - 1 steps are exact, on any grid whose steps vary smoothly."""
        ...


@dataclass(frozen=True)
class Started:
    """`solver`, except that `start` takes the first memory - 1 steps of it, e.g. Runge-Kutta before Adams-Bashforth.

    The evaluation that `start` makes at the beginning of each step is the one that `solver` remembers, so nothing is
    evaluated twice. An error made in a fixed number of steps counts one order more than all along: `order` is
    min(solver.started_order, start.order + 1): Heun serves Adams-Bashforth 3, RK4 serves 4 (Hairer, Norsett & Wanner,
    Solving Ordinary Differential Equations I, III.1).

    Attributes:
        start: a method of known order, whose buffer begins with the evaluation at the start of its step.
        solver: the multistep method.

    Raises:
        ValueError: `solver` does not say what its order is after a good start, or `start` has none.
    """

    start: Solver
    solver: Multistep

    def __post_init__(self) -> None:
        if not isinstance(self.solver, Multistep):
            raise ValueError(
                f"expected a multistep method to start, got {type(self.solver).__name__}; "
                "use e.g. core.build_solver('adams-bashforth', order=3)"
            )
        if self.start.order is None:
            raise ValueError(
                f"expected a start of known order, got {type(self.start).__name__}; use e.g. core.build_solver('heun')"
            )

    @property
    def order(self) -> int:
        assert self.start.order is not None
        return min(self.solver.started_order, self.start.order + 1)

    @property
    def memory(self) -> int:
        return self.solver.memory

    @property
    def chart(self) -> Chart:
        return getattr(self.solver, "chart", TimeChart())

    def plan(self, grid: Tensor) -> Started:
        return replace(self, start=plan(self.start, grid), solver=plan(self.solver, grid))

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        if state.step >= self.memory - 1:
            return self.solver.step(field, state, t_next)
        after = self.start.step(field, state, t_next)
        return replace(after, buffer=push(after.buffer[0], state.buffer, self.memory))
