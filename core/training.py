"""Endpoint training of solvers: batches of (x_T, condition, endpoint) -> rollout -> loss -> step (SpanLift,
equation 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.fitting import FitConfig, fit
from core.operators.corrected import Corrected, Residual
from core.state import Solver, State, VelocityField, integrate, nfe_of
from core.supervision import Example

Grid = Tensor | Callable[[int], Tensor]
"""A grid, or iteration -> grid, e.g. of a random number of steps."""
EndpointLoss = Callable[[Tensor, Example], Tensor]
"""(student's endpoint, example) -> scalar to minimise."""


@dataclass(frozen=True, eq=False)
class Rematerialised:
    """A field whose evaluations keep only their input for the backward pass and are computed again there.

    The memory of a rollout's gradient is then that of one evaluation, and a few states a step. The gradient is the
    same: the field must give the same value twice, so its network is in eval mode.
    """

    field: VelocityField

    @property
    def evaluations_per_call(self) -> int:
        return nfe_of(self.field)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.field(x, t)
        return _recomputed(self.field, x, t)


@dataclass(frozen=True, eq=False)
class RematerialisedResidual:
    """The same for a residual, which is cheap to compute twice and of many channels."""

    residual: Residual

    @property
    def memory(self) -> int:
        return getattr(self.residual, "memory", 1)

    def __call__(self, state: State, proposal: State) -> Tensor:
        return (
            _recomputed(self.residual, state, proposal) if torch.is_grad_enabled() else self.residual(state, proposal)
        )


def _recomputed(function: Callable[..., Tensor], *inputs: Tensor | State) -> Tensor:
    result = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(result, Tensor)
    return result


def rollout(solver: Solver, field: VelocityField, x_T: Tensor, grid: Tensor, condition: Tensor | None = None) -> Tensor:
    """Endpoint of `solver`, with gradients to its parameters and to x_T, field and residual rematerialised.

    Args:
        solver: bound to the condition where it has `bind`.
        field: frozen velocity field.
        x_T: (B, C, *space) at grid[0].
        grid: (steps + 1,) descending.
        condition: what to bind the solver to; None binds nothing.
    """
    bind = getattr(solver, "bind", None)
    bound = solver if bind is None or condition is None else bind(condition)
    if isinstance(bound, Corrected):
        bound = Corrected(bound.solver, RematerialisedResidual(bound.residual))
    return integrate(Rematerialised(field), bound, x_T, grid).x


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
    identity: Mapping[str, Any] | None = None,
    report: Callable[[int, Mapping[str, float]], None] | None = None,
    autocast: Literal["float32", "bfloat16"] = "float32",
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
        frozen: networks behind the field and the loss, watched to stay as they are.
        identity: what else makes the run what it is.
        report: see `fit`.
        autocast: see `fit`.

    Raises:
        ValueError: a frozen network requires gradients or is in training mode, or see `fit`.
        RuntimeError: a frozen network has changed.
    """
    for network in frozen:
        _check_frozen(network)
    before = [fingerprint(network) for network in frozen]

    def endpoint_loss(iteration: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        example = examples(iteration)
        nodes = grid(iteration) if callable(grid) else grid
        end = rollout(solver, bind(example.condition), example.x_T, nodes, example.condition)  # pyright: ignore
        return loss(end, example), {}

    fit(solver, endpoint_loss, config, directory, identity=identity, report=report, autocast=autocast)
    for network, known in zip(frozen, before, strict=True):
        if any(parameter.grad is not None for parameter in network.parameters()) or fingerprint(network) != known:
            raise RuntimeError(f"expected {type(network).__name__} to stay frozen, got another one after the training")
    return solver


def _check_frozen(network: nn.Module) -> None:
    loose = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if loose:
        raise ValueError(
            f"expected a frozen {type(network).__name__}, got {len(loose)} parameters that require gradients, "
            f"e.g. {loose[0]}; call requires_grad_(False)"
        )
    if any(module.training for module in network.modules()):
        raise ValueError(f"expected {type(network).__name__} in eval mode, got training mode; call eval()")


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers with their names: the identity of frozen weights."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
