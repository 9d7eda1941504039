"""A base solver with a residual is a solver again: this is SpanLift."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from core.operators.residual import ResidualConfig, SpanLiftResidual
from core.operators.scaling import chart_of
from core.schedules import Schedule
from core.solvers.multistep import step_remembering
from core.state import Solver, State, VelocityField, plan

if TYPE_CHECKING:
    from core.checkpoints import Card


class Residual(Protocol):
    """What is added to a proposed step: a map of (state, proposal) to a change of x of the state's shape.

    It may have `memory`, the buffered evaluations it reads, `bind(condition)`, which gives the residual with a frozen
    condition in place, and `check(grid)`, which refuses a grid it was not made for with ValueError. `proposal.buffer`
    holds this step's evaluations, newest first, before those of `state.buffer`.
    """

    def __call__(self, state: State, proposal: State) -> Tensor: ...


class Corrected(nn.Module):
    """`solver` plus `residual`, itself a Solver; with a zero residual it is `solver`, bit for bit.

    The base solver sees the buffer it would see alone, the residual as many evaluations as it asks for. Costs no
    evaluation of the field beyond the base solver's.
    """

    order: int | None = None
    card: Card | None = None
    """What a checkpoint says of this solver; set by `core.load`."""

    def __init__(self, solver: Solver, residual: Residual) -> None:
        super().__init__()
        self.solver = solver
        self.residual = residual
        self.memory = max(solver.memory, getattr(residual, "memory", 1))

    def bind(self, condition: Tensor) -> Corrected:
        """The same solver with the frozen condition given to its residual; shares the parameters and holds none."""
        bind = getattr(self.residual, "bind", None)
        if bind is None:
            return self
        bound = Corrected(self.solver, bind(condition))
        bound.card = self.card
        return bound

    def plan(self, grid: Tensor) -> Corrected:
        """The same residual on the base solver as it is for this grid.

        Raises:
            ValueError: the base solver or the residual was not made for this grid.
        """
        check = getattr(self.residual, "check", None)
        if check is not None:
            check(grid)
        base = plan(self.solver, grid)
        if base is self.solver:
            return self
        planned = Corrected(base, self.residual)
        planned.card = self.card
        return planned

    def propose(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        """The base solver's step from `state` to `t_next`, its buffer as long as the residual reads."""
        return step_remembering(self.solver, field, state, t_next, self.memory)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        """The proposed step, corrected."""
        proposal = self.propose(field, state, t_next)
        return replace(proposal, x=proposal.x + self.residual(state, proposal))


def spanlift(solver: Solver, config: ResidualConfig, schedule: Schedule | None = None) -> Corrected:
    """SpanLift over any base solver, untrained, which is to say equal to it.

    Args:
        solver: the base solver, which is frozen here if it is a learned one; the operator works in its chart.
        config: sizes of the operator.
        schedule: noise schedule of the model; the chart's own where it has one.
    """
    return Corrected(frozen(solver), SpanLiftResidual(config, chart_of(solver), schedule))


def frozen(solver: Solver) -> Solver:
    """The solver, its learned numbers, where it has some, no longer trained."""
    return solver.requires_grad_(False) if isinstance(solver, nn.Module) else solver
