"""Endpoint training of solvers: batches of (x_T, condition, endpoint) -> rollout -> loss -> step (SpanLift,
equation 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from core.distributed import Alone, Fabric, Portion, portion_of, portions
from core.fitting import FitConfig, fit
from core.frozen import check_frozen, fingerprint
from core.rematerialisation import LowPrecision, Rematerialised, bound_to, rematerialised
from core.state import Solver, VelocityField, integrate
from core.supervision import Example

Grid = Tensor | Callable[[int], Tensor]
"""A grid, or iteration -> grid, e.g. of a random number of steps."""
EndpointLoss = Callable[[Tensor, Example], Tensor]
"""(student's endpoint, example) -> scalar to minimise."""
Run = Callable[[Solver, VelocityField, Example, Tensor], Tensor]
"""(solver, field, example, grid) -> what the loss compares, with gradients; `run_to_end`, or core.path_supervision."""


def rollout(
    solver: Solver,
    field: VelocityField,
    x_T: Tensor,
    grid: Tensor,
    condition: Tensor | None = None,
    afs: bool = False,
    rematerialise: bool = True,
) -> Tensor:
    """Endpoint of `solver`, with gradients to its parameters and to x_T.

    Args:
        solver: bound to the condition where it has `bind`.
        field: frozen velocity field.
        x_T: (B, C, *space) at grid[0].
        grid: (steps + 1,) descending.
        condition: what to bind the solver to; None binds nothing.
        afs: analytic first step, see `core.integrate`.
        rematerialise: compute evaluations of field and residual again in the backward pass, so that memory does not
            grow with their number; the gradient is the same, a third more is computed.
    """
    if rematerialise:
        return integrate(Rematerialised(field), rematerialised(solver, condition), x_T, grid, afs).x
    return integrate(field, bound_to(solver, condition), x_T, grid, afs).x


@dataclass(frozen=True)
class RunToEnd:
    """`rollout` from the example's x_T: what endpoint supervision compares.

    Attributes:
        afs: analytic first step, see `core.integrate`.
        rematerialise: see `rollout`.
    """

    afs: bool = False
    rematerialise: bool = True

    def __call__(self, solver: Solver, field: VelocityField, example: Example, grid: Tensor) -> Tensor:
        return rollout(solver, field, example.x_T, grid, example.condition, self.afs, self.rematerialise)


run_to_end = RunToEnd()
run_to_end_afs = RunToEnd(afs=True)


def train_solver(
    solver: nn.Module,
    grid: Grid,
    examples: Callable[[int], Example],
    bind: Callable[[Tensor | None], VelocityField],
    loss: EndpointLoss,
    config: FitConfig,
    directory: Path,
    *,
    frozen: Sequence[nn.Module] = (),
    run: Run = run_to_end,
    identity: Mapping[str, Any] | None = None,
    report: Callable[[int, Mapping[str, float]], None] | None = None,
    autocast: Literal["float32", "bfloat16"] = "float32",
    fabric: Fabric | None = None,
    passes: int = 1,
) -> nn.Module:
    """Fit the few parameters of `solver` to endpoints, in place; a killed run started again ends with the same
    parameters.

    Args:
        solver: a learned solver, e.g. `Corrected`.
        grid: see `Grid`.
        examples: iteration -> example, a function of the iteration alone.
        bind: condition -> frozen field.
        loss: see `EndpointLoss`.
        config: see `FitConfig`: Adam, warm-up, cosine, gradient clipping.
        directory: of the run's checkpoint and log.
        frozen: networks behind the field and the loss, watched to stay as they are; gradients that their own training
            left are cleared.
        run: see `Run`.
        identity: what else makes the run what it is.
        report: see `fit`.
        autocast: precision of the frozen network inside the field; state, solver and loss stay as they are.
        fabric: processes that share the rows of each example, see core.distributed; None is this one alone. `loss`
            must be a mean over rows.
        passes: in how many portions each process computes its rows, one after another; `loss` must be a mean over rows.

    Raises:
        ValueError: a frozen network requires gradients or is in training mode, or see `fit`.
        RuntimeError: a frozen network has changed.
    """
    for network in frozen:
        check_frozen(network)
        network.zero_grad(set_to_none=True)  # or they would be taken for a change made here
    before = [fingerprint(network) for network in frozen]
    low = autocast == "bfloat16"
    identity = {**(identity or {}), **({"autocast": autocast} if low else {})}

    drawn = lru_cache(maxsize=1)(examples) if passes > 1 else examples

    def endpoint_loss(portion: Portion, iteration: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        example, weight = portion_of(drawn(iteration), portion)
        nodes = grid(iteration) if callable(grid) else grid
        field = bind(example.condition)
        answer = run(solver, LowPrecision(field) if low else field, example, nodes)  # pyright: ignore
        return weight * loss(answer, example), {}

    losses = [partial(endpoint_loss, portion) for portion in portions(fabric or Alone(), passes)]
    fit(solver, losses, config, directory, identity=identity, report=report, fabric=fabric)
    for network, known in zip(frozen, before, strict=True):
        if any(parameter.grad is not None for parameter in network.parameters()) or fingerprint(network) != known:
            raise RuntimeError(f"expected {type(network).__name__} to stay frozen, got another one after the training")
    return solver
