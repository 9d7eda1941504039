"""What training does around networks: forget their activations and compute them twice, run a frozen field in low
precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.operators.corrected import Corrected, Residual
from core.state import Solver, State, VelocityField, nfe_of


def recomputed(function: Callable[..., Any], *inputs: Tensor | State) -> Any:
    """function(*inputs), which keeps only its inputs for the backward pass and is called again there.

    The function must give the same value twice: no dropout, no other random numbers.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


@dataclass(frozen=True, eq=False)
class Around:
    """A field that does something around each call of another one, and offers what that one offers."""

    field: VelocityField

    @property
    def evaluations_per_call(self) -> int:
        return nfe_of(self.field)

    @property
    def schedule(self) -> Any:
        """The field's schedule, where it has one."""
        return self.field.schedule  # pyright: ignore[reportAttributeAccessIssue]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self._run(self.field, x, t)

    def __getattr__(self, name: str) -> Any:
        """Other methods of (x, t) that the field may offer, as an analytic start, are there where it offers them."""
        if name.startswith("_") or name == "field":
            raise AttributeError(name)
        found = getattr(self.field, name)
        return partial(self._run, found) if callable(found) and not isinstance(found, nn.Module) else found

    def _run(self, function: Callable[[Tensor, Tensor], Any], x: Tensor, t: Tensor) -> Any:
        raise NotImplementedError


class Rematerialised(Around):
    """A field whose evaluations keep only their input for the backward pass and are computed again there.

    The memory of a rollout's gradient is then that of one evaluation, and a few states a step. The gradient is the
    same: the field must give the same value twice, so its network is in eval mode.
    """

    def _run(self, function: Callable[[Tensor, Tensor], Any], x: Tensor, t: Tensor) -> Any:
        wanted = torch.is_grad_enabled() and (x.requires_grad or t.requires_grad)
        return recomputed(function, x, t) if wanted else function(x, t)


class LowPrecision(Around):
    """A field whose network computes in bfloat16 where autocast allows; state, times and coefficients stay as they are.

    Autocast covers the call of the field alone. What the field does with its network's answer is elementwise, which
    autocast leaves in the precision of the state.
    """

    def _run(self, function: Callable[[Tensor, Tensor], Any], x: Tensor, t: Tensor) -> Any:
        with torch.autocast(x.device.type, torch.bfloat16):
            return function(x, t)


@dataclass(frozen=True, eq=False)
class RematerialisedResidual:
    """The same for a residual, which is cheap to compute twice and of many channels."""

    residual: Residual

    @property
    def memory(self) -> int:
        return getattr(self.residual, "memory", 1)

    def check(self, grid: Tensor) -> None:
        """Refuse the grids that the residual refuses."""
        check = getattr(self.residual, "check", None)
        if check is not None:
            check(grid)

    def __call__(self, state: State, proposal: State) -> Tensor:
        return recomputed(self.residual, state, proposal) if torch.is_grad_enabled() else self.residual(state, proposal)


def bound_to(solver: Solver, condition: Tensor | None) -> Solver:
    """The solver bound to the condition where it has `bind` and there is one."""
    bind = getattr(solver, "bind", None)
    return solver if bind is None or condition is None else bind(condition)


def rematerialised(solver: Solver, condition: Tensor | None) -> Solver:
    """The solver bound to the condition where it has `bind`, its residual rematerialised where it has one."""
    bound = bound_to(solver, condition)
    if isinstance(bound, Corrected):
        return Corrected(bound.solver, RematerialisedResidual(bound.residual))
    return bound


def forget_activations(modules: Iterable[nn.Module]) -> None:
    """Let each of these modules keep only its inputs for the backward pass and compute the rest again there.

    Values and gradients stay the same: what a module draws, as for dropout, is drawn again alike. The modules are
    changed in place, by a `forward` of their own; their parameters keep their names.
    """
    for module in modules:
        module.forward = _forgetful(module.forward)


def _forgetful(forward: Callable[..., Any]) -> Callable[..., Any]:
    def forgetful(*inputs: Any) -> Any:
        return checkpoint(forward, *inputs, use_reentrant=False) if torch.is_grad_enabled() else forward(*inputs)

    return forgetful
